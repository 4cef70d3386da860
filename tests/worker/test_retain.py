"""`python -m worker retain`: previews, clears away by the settings, ends between two batches, and goes on again."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from old_studies import NOW, Planter, contents
from sqlalchemy import select, text
from sqlalchemy.orm import Session, sessionmaker

sys.path.insert(0, str(Path(__file__).parents[1] / "stand_ins"))

from audit_repository import heard_in

from models.audit.settings import AuditSettings
from models.errors import ConfigurationError
from models.records.base import utc_now
from models.records.dicom import Study
from models.records.outputs import CommitmentRequest, DeliveryState
from models.requests import Lane
from models.settings import Settings
from models.spool import Spool
from models.spool_archive import SpoolArchive
from worker.__main__ import _parser
from worker.outbox import Outbox
from worker.retention import command as retain_command
from worker.retention import retention as retain_module
from worker.settings import WorkerSettings

Sessions = sessionmaker[Session]
UNUSED_REDIS = "redis://127.0.0.1:1/0"
DAY_S = 86_400.0


class Desk:
    """A data directory with a feed's leavings, and the command on it."""

    def __init__(self, directory: Path, sessions: Sessions, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory, self.sessions, self._capsys = directory, sessions, capsys
        self.settings = Settings(data_dir=directory, redis_url=UNUSED_REDIS)  # type: ignore[arg-type]
        self.spool, self.outbox = Spool(self.settings.spool_path), Outbox(self.settings.outbox_path)
        self.spool.prepare()
        self.outbox.prepare()
        self.audit_file = directory / "audit.log"
        self.said = ""

    def plant(self, plant: Callable[[Planter], None]) -> None:
        """Plant studies, their ages counted from now."""
        with self.sessions.begin() as session:
            plant(Planter(session))

    def output(self, name: str, age_days: float) -> Path:
        return self._aged(self.outbox.path_of(name), age_days)

    def set_aside(self, uid: str, age_days: float) -> str:
        writer = self.spool.begin(
            sop_class_uid="1.2",
            sop_instance_uid=uid,
            transfer_syntax_uid="1.2",
            calling_ae_title="A",
            called_ae_title="B",
            lane=Lane.ROUTINE,
        )
        with writer:
            writer.write(b"x" * 100)
            key = writer.commit()
        self.spool.set_aside(key)
        os.utime(self.spool.set_aside_path_of(key), (time.time() - age_days * DAY_S,) * 2)
        return key

    def _aged(self, path: Path, age_days: float) -> Path:
        path.write_bytes(b"x" * 100)
        os.utime(path, (time.time() - age_days * DAY_S,) * 2)
        return path

    def run(self, *options: str, exit_status: int = 0, **own: Any) -> dict[str, tuple[int | None, int | None]]:
        """Run the command with these settings; give count and bytes by what they are of."""
        arguments = _parser().parse_args(["retain", "--format", "json", *options])
        audit = AuditSettings(file=self.audit_file)
        status = retain_command.retain(arguments, self.settings, WorkerSettings(**own), self.sessions, audit)
        out, self.said = self._capsys.readouterr()
        out = out[out.index("[\n") :]  # behind log lines, which a process sends to standard error
        assert status == exit_status
        return {line["what"]: (line["count"], line["bytes"]) for line in json.loads(out)}

    def studies(self) -> list[str]:
        with self.sessions() as session:
            return list(session.scalars(select(Study.study_instance_uid).order_by(Study.id)))


@pytest.fixture
def desk(sqlite_sessions: Sessions, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Desk]:
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield Desk(tmp_path / "data", sqlite_sessions, capsys)
    for number, handler in kept.items():
        signal.signal(number, handler)


def old(planter: Planter, *uids: str, **options: Any) -> None:
    """Studies of 100 days before now."""
    ages = (utc_now() - NOW).total_seconds() / DAY_S
    for uid in uids:
        planter.study(uid, 100 - ages, **options)


def test_a_preview_changes_nothing_and_is_the_default(desk: Desk) -> None:
    desk.plant(lambda planter: old(planter, "1.2.1", "1.2.2"))
    output = desk.output("1.2.1.9.1.dcm", 100)
    aside = desk.set_aside("1.2.7", 100)
    before = contents(desk.sessions)
    own = {"retain_studies_days": 30, "retain_set_aside_days": 30}
    for options in ((), ("--dry-run",)):
        told = desk.run(*options, **own)
        assert told["studies"] == (2, None)
        assert told["instances set aside"] == (1, desk.spool.set_aside_path_of(aside).stat().st_size)
        assert told["files of delivered outputs"] == (1, 100)
    assert contents(desk.sessions) == before
    assert output.exists()
    assert not desk.audit_file.exists()


def test_by_default_no_record_and_nothing_set_aside_ever_goes(desk: Desk) -> None:
    desk.plant(lambda planter: old(planter, "1.2.1", delivery=DeliveryState.DEAD))
    aside = desk.set_aside("1.2.7", 3000)
    dead = desk.output("1.2.1.9.1.dcm", 3000)
    before = contents(desk.sessions)
    told = desk.run("--yes")
    assert contents(desk.sessions) == before
    assert desk.spool.set_aside_path_of(aside).exists()
    assert dead.exists(), "it may be sent again"
    assert set(told) == {
        "files of delivered outputs",
        "spool archive beyond its limits",
        "receptions that never ended",
        "jobs that ended long ago",
    }


def test_studies_go_with_their_files_and_the_audit_trail_is_told(desk: Desk) -> None:
    desk.plant(lambda planter: old(planter, "1.2.1", "1.2.2"))
    gone, kept = desk.output("1.2.1.9.1.dcm", 1), desk.output("1.2.99.dcm", 1)
    keep = desk.directory / "hold.txt"
    keep.write_text("# court order\n1.2.2   # until 2030\n")
    told = desk.run("--yes", "--keep", str(keep), retain_studies_days=30)
    assert desk.studies() == ["1.2.2"]
    assert told["studies"] == (1, None)
    assert told["instances of them and of no study"] == (2, None)
    assert told["files of them"] == (1, 100)
    assert told["old studies left alone: on hold"] == (1, None)
    assert (gone.exists(), kept.exists()) == (False, True)
    assert "bytes of the SQLite file are free for new rows" in desk.said
    (message,) = heard_in(desk.audit_file)
    assert (message.event, message.patients()) == ("DICOM Study Deleted", ["P1.2.1"])
    assert message.studies() == {"1.2.1": {"1.2.840.10008.5.1.4.1.1.1": 2}}
    assert message.root.find("ActiveParticipant").get("UserIsRequestor") == "true"
    assert desk.run("--yes", "--keep", str(keep), retain_studies_days=30)["studies"] == (0, None)


def test_a_set_aside_instance_goes_with_its_study(desk: Desk) -> None:
    desk.plant(lambda planter: old(planter, "1.2.1"))
    key = desk.set_aside("1.2.1.1.1", 1)
    other = desk.set_aside("1.2.8", 1)
    with desk.sessions.begin() as session:
        digest = key.partition("_")[2]
        changed = "UPDATE instance SET content_sha256 = :digest WHERE sop_instance_uid = '1.2.1.1.1'"
        session.execute(text(changed), {"digest": digest + "0" * 48})
    desk.run("--yes", retain_studies_days=30)
    assert [entry.key for entry in desk.spool.set_aside_entries()] == [other]


def test_ctrl_c_ends_after_the_batch_in_hand_and_the_next_run_goes_on(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.plant(lambda planter: old(planter, "1.2.1", "1.2.2", "1.2.3"))
    monkeypatch.setattr(retain_module, "BATCH", 1)
    tell = retain_module.tell_deleted

    told_of: list[Any] = []

    def interrupt(trail: Any, study: Any) -> None:
        if not told_of:  # a second one would end the tests
            os.kill(os.getpid(), signal.SIGINT)
        told_of.append(study)
        tell(trail, study)

    monkeypatch.setattr(retain_module, "tell_deleted", interrupt)
    told = desk.run("--yes", retain_studies_days=30, exit_status=130)
    assert told["studies"] == (1, None)
    assert desk.studies() == ["1.2.2", "1.2.3"]
    assert "the same command goes on where it stopped" in desk.said
    monkeypatch.setattr(retain_module, "tell_deleted", tell)
    assert desk.run("--yes", retain_studies_days=30)["studies"] == (2, None)
    assert len(heard_in(desk.audit_file)) == 3


def test_what_has_an_age_of_its_own_goes_by_it(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retain_module, "ROWS", 2)
    desk.plant(lambda planter: old(planter, "1.2.1", "1.2.2", delivery=DeliveryState.DEAD))
    dead = desk.output("1.2.1.9.1.dcm", 100)
    with desk.sessions.begin() as session:
        for number, age in ((1, 100), (2, 10)):
            asked = utc_now() - timedelta(days=age)
            session.add(CommitmentRequest(transaction_uid=f"1.7.{number}", destination="archive", asked_at=asked))
    aside = [desk.set_aside("1.2.7", 100), desk.set_aside("1.2.8", 10)]
    own = {
        "retain_dead_deliveries_days": 30,
        "retain_shadow_days": 30,
        "retain_commitments_days": 30,
        "retain_set_aside_days": 30,
    }
    expected = {
        "deliveries given up": (4, None),
        "findings of the shadow": (4, None),
        "commitment requests of ours": (1, None),
    }
    preview = desk.run(**own)
    assert expected.items() <= preview.items()
    told = desk.run("--yes", **own)
    assert expected.items() <= told.items()
    assert told["instances set aside"] == preview["instances set aside"]
    assert [entry.key for entry in desk.spool.set_aside_entries()] == aside[1:]
    assert not dead.exists(), "nothing waits for it any more"
    left = contents(desk.sessions)
    assert (len(left["delivery"]), len(left["shadow_finding"]), len(left["commitment_request"])) == (2, 0, 1)
    assert len(left["study"]) == 2


def test_the_archive_is_trimmed_to_its_limits(desk: Desk) -> None:
    archive = SpoolArchive(desk.spool.root)
    for number, age in ((1, 20), (2, 5), (3, 1)):
        path = desk.directory / f"1.2.{number}_{number:016d}.dcm"
        desk._aged(path, age)
        archive.keep(path)
    desk.settings = Settings(data_dir=desk.directory, spool_archive_days=10, redis_url=UNUSED_REDIS)  # type: ignore[arg-type]
    assert desk.run()["spool archive beyond its limits"] == (1, 100)
    desk.settings = desk.settings.model_copy(update={"spool_archive_max_gb": 150e-9})
    assert desk.run()["spool archive beyond its limits"] == (2, 200)
    assert desk.run("--yes")["spool archive beyond its limits"] == (2, 200)
    assert [file.key for file in archive.files()] == [f"1.2.3_{3:016d}"]


def test_a_reception_that_never_ended_goes_and_one_under_way_stays(desk: Desk) -> None:
    stale = desk._aged(desk.spool.root / "incoming" / "1-a.part", 0.1)
    fresh = desk._aged(desk.spool.root / "incoming" / "1-b.part", 0.0)
    assert desk.run("--yes")["receptions that never ended"] == (1, 100)
    assert (stale.exists(), fresh.exists()) == (False, True)


@pytest.mark.parametrize(("content", "said"), [(None, "cannot be read"), ("1.2.3\nDOE^JANE\n", "line 2 is no Study")])
def test_without_a_sound_list_of_studies_to_keep_nothing_is_deleted(desk: Desk, content: str | None, said: str) -> None:
    desk.plant(lambda planter: old(planter, "1.2.1"))
    keep = desk.directory / "hold.txt"
    if content is not None:
        keep.write_text(content)
    with pytest.raises(ConfigurationError, match=said) as caught:
        desk.run("--yes", retain_studies_days=30, retain_keep_file=keep)
    assert "DOE" not in str(caught.value)
    assert desk.studies() == ["1.2.1"]


def test_commitment_requests_are_kept_while_a_report_may_come() -> None:
    with pytest.raises(ValueError, match="retain_commitments_days must not be less than commitment_give_up_s"):
        WorkerSettings(retain_commitments_days=1, commitment_give_up_s=2 * DAY_S)


def test_the_command_has_its_place_in_the_parser() -> None:
    parsed = _parser().parse_args(["retain", "--yes"])
    assert (parsed.command, parsed.yes, parsed.keep, parsed.format) == ("retain", True, None, "table")
    with pytest.raises(SystemExit):
        _parser().parse_args(["retain", "--yes", "--dry-run"])
