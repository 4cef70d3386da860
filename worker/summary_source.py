"""Where a study summary takes its patient and study attributes from: a file of the study that is still here.

A finished spool file is gone, but the outputs of its instance have the very bytes of these attributes and stay in the
outbox for `outbox_keep_days`; so does an earlier summary. Where no output was wanted, the spool may hold the source
itself: set aside, or in the archive. The records are the last resort: they have text, not bytes, and may have none of
it; what was written under another mode of `RADSTREAM_PHI` than `full` is a hash, which must never become an identifier
in an archive.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from sqlalchemy import select
from sqlalchemy.orm import Session

from models.any_spool import AnySpool
from models.errors import ObjectStoreUnavailable, Unprocessable
from models.pixels.attributes import read_text
from models.pixels.header import read_header
from models.records.dicom import Instance, Series, Study
from models.records.outputs import Output
from models.settings import PatientIdentity
from worker.disagreements import key_of
from worker.outbox import AnyOutbox

FILES_AT_MOST: Final = 50
"""Outputs, and then instances, whose files are looked for; one is enough."""

_RECORDED: Final = {
    "PatientName": "patient_name",
    "PatientID": "patient_id",
    "IssuerOfPatientID": "patient_id_issuer",
    "PatientSex": "patient_sex",
    "AccessionNumber": "accession_number",
    "StudyDescription": "study_description",
}
_RECORDED_DATES: Final = {"PatientBirthDate": "patient_birth_date", "StudyDate": "study_date"}


@dataclass(frozen=True, slots=True)
class Source:
    """Where the header of a study may be found: the file name of an output, or the spool key of an instance."""

    name: str
    is_output: bool


@dataclass(frozen=True, slots=True)
class SummarySource:
    """Finds the header of a study.

    Attributes:
        identity: the mode of `RADSTREAM_PHI`.
    """

    outbox: AnyOutbox
    spool: AnySpool
    identity: PatientIdentity

    def sources(self, session: Session, study_id: int) -> list[Source]:
        """List the files that may be there, the best first."""
        return [*self._outputs(session, study_id), *self._instances(session, study_id)]

    def header(self, sources: Iterable[Source], study: Study) -> Dataset | None:
        """Give patient and study attributes of a study; None when nothing has them any more.

        Raises:
            Transient: the bucket of spool and outbox is away.
        """
        for source in sources:
            try:
                path = self._path_of(source)
                if path is None:
                    continue
                header = read_header(path)
            except ObjectStoreUnavailable:
                raise
            except (OSError, Unprocessable):
                continue
            finally:
                if source.is_output:
                    self.outbox.let_go(source.name)
            if read_text(header, "StudyInstanceUID") == study.study_instance_uid:
                return header
        return self._recorded(study)

    def _path_of(self, source: Source) -> Path | None:
        if source.is_output:
            return self.outbox.fetch(source.name)
        file = self.spool.find(source.name)
        return None if file is None else self.spool.fetch_file(file)

    def _outputs(self, session: Session, study_id: int) -> Iterator[Source]:
        # The newest first: a patient may have been corrected between two instances.
        newest = select(Output.file_name).order_by(Output.id.desc()).limit(FILES_AT_MOST)
        of_instances = (
            newest.join(Instance, Instance.id == Output.instance_id)
            .join(Series, Series.id == Instance.series_id)
            .where(Series.study_id == study_id)
        )
        for statement in (of_instances, newest.where(Output.study_id == study_id)):
            yield from (Source(name, is_output=True) for name in session.scalars(statement).all())

    def _instances(self, session: Session, study_id: int) -> Iterator[Source]:
        statement = (
            select(Instance)
            .join(Series, Series.id == Instance.series_id)
            .where(Series.study_id == study_id)
            .order_by(Instance.id.desc())
            .limit(FILES_AT_MOST)
        )
        for row in session.scalars(statement).all():
            yield Source(key_of(row), is_output=False)

    def _recorded(self, study: Study) -> Dataset | None:
        # A name is never recorded beside a hash: with one, the rest is as it was sent.
        if self.identity is not PatientIdentity.FULL or study.patient_name is None or study.patient_id is None:
            return None
        texts = {keyword: getattr(study, column) for keyword, column in _RECORDED.items()}
        dates = {keyword: getattr(study, column) for keyword, column in _RECORDED_DATES.items()}
        texts |= {keyword: day.strftime("%Y%m%d") for keyword, day in dates.items() if day is not None}
        header = Dataset()
        header.SpecificCharacterSet = "ISO_IR 192"
        for keyword, text in (texts | {"StudyInstanceUID": study.study_instance_uid}).items():
            if text is not None:
                # Raw, as a file would have it: whether it is valid is judged where it is copied.
                value = text.encode()
                tag = Tag(keyword)
                header[tag] = RawDataElement(tag, dictionary_VR(tag), len(value), value, 0, False, True)
        return header
