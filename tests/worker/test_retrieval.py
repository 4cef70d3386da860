"""Retrieval: single instances from a real C-GET SCP, the same bytes where it has them, and a reason where not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from stand_in_pacs import Pacs

from models.errors import Transient, Unprocessable
from models.spool_header import dataset_sha256
from worker.backfill_selection import Candidate
from worker.retrieval import GIVE_UP_AFTER, Retriever
from worker.settings import RemoteEntity


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    pacs = Pacs(ComputedRadiographyImageStorage, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    pacs.start()
    yield pacs
    pacs.stop()


def _encoded(dataset: Dataset) -> bytes:
    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = True, False
    write_dataset(stream, dataset)
    return stream.getvalue()


def _candidate(make_request: Any, dataset: Dataset) -> Candidate:
    request = make_request(str(dataset.SOPInstanceUID), _encoded(dataset))
    return Candidate(request, 0, str(dataset.StudyInstanceUID), str(dataset.SeriesInstanceUID))


def _retriever(pacs: Pacs, *candidates: Candidate, timeout_s: float = 10) -> Retriever:
    return Retriever(RemoteEntity(**pacs.source), "RADSTREAM", timeout_s, candidates)


def test_an_instance_comes_with_the_bytes_that_were_received(
    pacs: Pacs, make_source: Any, make_request: Any, tmp_path: Path
) -> None:
    datasets = [make_source("1.2.1"), make_source("1.2.2")]
    pacs.holds = {str(dataset.SOPInstanceUID): dataset for dataset in datasets}
    candidates = [_candidate(make_request, dataset) for dataset in datasets]
    retriever = _retriever(pacs, *candidates)
    for candidate in candidates:
        path = tmp_path / candidate.request.spool_key
        retriever.fetch(candidate, path)
        assert dataset_sha256(path) == candidate.request.content_sha256
        assert dcmread(path).SOPInstanceUID == candidate.request.sop_instance_uid
    retriever.release()
    assert pacs.asked == [("IMAGE", "1.2.1000", "1.2.1"), ("IMAGE", "1.2.1000", "1.2.2")]
    assert pacs.associations == 1


def test_an_instance_that_the_pacs_changed_has_another_digest(
    pacs: Pacs, make_source: Any, make_request: Any, tmp_path: Path
) -> None:
    candidate = _candidate(make_request, make_source("1.2.1"))
    pacs.holds["1.2.1"] = make_source("1.2.1", PatientID="ID8")
    retriever = _retriever(pacs, candidate)
    retriever.fetch(candidate, tmp_path / "fetched")
    retriever.release()
    assert dataset_sha256(tmp_path / "fetched") == hashlib.sha256(_encoded(pacs.holds["1.2.1"])).hexdigest()
    assert dataset_sha256(tmp_path / "fetched") != candidate.request.content_sha256


def test_an_instance_that_the_pacs_does_not_have_is_no_reason_to_ask_no_more(
    pacs: Pacs, make_source: Any, make_request: Any, tmp_path: Path
) -> None:
    there = make_source("1.2.1")
    pacs.holds["1.2.1"] = there
    candidate = _candidate(make_request, there)
    absent = replace(candidate, request=make_request("1.2.9"))
    retriever = _retriever(pacs, candidate)
    for _ in range(GIVE_UP_AFTER + 1):
        with pytest.raises(Unprocessable, match="the PACS gave no instance"):
            retriever.fetch(absent, tmp_path / "absent")
    retriever.fetch(candidate, tmp_path / "there")
    retriever.release()
    assert not (tmp_path / "absent").exists()


def test_a_pacs_that_does_not_answer_is_given_up_after_a_few_attempts(
    pacs: Pacs, make_source: Any, make_request: Any, tmp_path: Path
) -> None:
    pacs.stop()
    candidate = _candidate(make_request, make_source("1.2.1"))
    retriever = _retriever(pacs, candidate, timeout_s=2)
    for _ in range(GIVE_UP_AFTER):
        with pytest.raises(Transient, match=r"^destination_unreachable$"):
            retriever.fetch(candidate, tmp_path / "never")
    with pytest.raises(Transient, match="given up"):
        retriever.fetch(candidate, tmp_path / "never")
