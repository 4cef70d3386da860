"""A whole feed with an audit trail: every message that a real run makes is one of the standard, in a sensible order."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from instances import Sender, chest

sys.path.insert(0, str(Path(__file__).parents[1] / "stand_ins"))

from audit_repository import AuditRepository, Heard, heard_in

from deploy.launcher import Feed, wait_until
from deploy.receiver import Receiver

RECEIVED, SENT, BEGUN = "received", "sent", "begun"


def test_a_run_of_the_feed_is_told_from_start_to_stop(
    feeds: Callable[..., Feed], archive: Receiver, tmp_path: Path
) -> None:
    file = tmp_path / "audit.log"
    with AuditRepository() as repository:
        feed = feeds(
            RADSTREAM_AUDIT_REPOSITORY=f"tcp://127.0.0.1:{repository.port}",
            RADSTREAM_AUDIT_FILE=str(file),
            RADSTREAM_PHI="none",
        )
        feed.start()
        images = [chest(64, seed) for seed in range(3)]
        for image in images[1:]:
            image.StudyInstanceUID = images[1].StudyInstanceUID
        Sender(feed.port).send(images)
        studies = {str(image.StudyInstanceUID): 0 for image in images}
        assert wait_until(lambda: len(_by(repository.heard, SENT)) >= 1 and _count(repository.heard) == 6, 90, 0.05)
        feed.stop()
        heard = list(repository.heard)
    assert sorted(each.xml for each in heard_in(file)) == sorted(each.xml for each in heard)
    lives = [(each.types[0], each.participant("110150")["UserName"]) for each in heard if each.types]
    processes = {"radstream scp", "radstream worker", "radstream delivery"}
    assert {name for kind, name in lives if kind == "Application Start"} == processes
    assert {name for kind, name in lives if kind == "Application Stop"} == processes
    received = [each.studies() for each in _by(heard, RECEIVED)]
    assert {uid: sum(classes.values()) for of in received for uid, classes in of.items()} == {
        str(images[0].StudyInstanceUID): 1,
        str(images[1].StudyInstanceUID): 2,
    }
    for kind in (BEGUN, SENT):
        counts = dict(studies)
        for each in _by(heard, kind):
            for uid, classes in each.studies().items():
                counts[uid] += sum(classes.values())
        assert list(counts.values()) == [2, 4]  # a picture and a report of each instance
    assert all(each.patients() == [] for each in heard)
    identity = {str(images[0].PatientID), str(images[0].PatientName)}
    assert not [each for each in heard for told in identity if told.encode() in each.xml]


def _by(heard: list[Heard], kind: str) -> list[Heard]:
    if kind == BEGUN:
        return [each for each in heard if each.event == "Begin Transferring DICOM Instances"]
    transfers = [each for each in heard if each.event == "DICOM Instances Transferred"]
    ours = {each.xml: each.participant("110153").get("UserName") == "radstream delivery" for each in transfers}
    return [each for each in transfers if ours[each.xml] is (kind == SENT)]


def _count(heard: list[Heard]) -> int:
    return sum(count for each in _by(heard, SENT) for classes in each.studies().values() for count in classes.values())
