"""What an export of the analysts' views held, for the audit trail: the studies, and the patients that it named."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from models.audit.trail import AuditTrail
from worker.audit import STUDIES_TOGETHER, tell_exported
from worker.results import Batch, Choice

STUDY: Final = "study_instance_uid"
PATIENT: Final = "patient_id"
STANDARD_OUTPUT: Final = "file:///dev/stdout"


class Exported:
    """Tells the studies of the rows that pass; views without studies, daily counts say, concern no patient."""

    def __init__(self, trail: AuditTrail, choice: Choice, arguments: Namespace) -> None:
        self._trail = trail
        self._arguments = arguments
        names = [column.name for column in choice.columns]
        self._study = names.index(STUDY) if STUDY in names else None
        self._patient = names.index(PATIENT) if PATIENT in names else None
        self._studies: dict[tuple[str, str | None], None] = {}
        self._rows = 0
        self._is_told = False

    def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Pass rows on."""
        for batch in batches:
            yield batch
            if self._study is not None and self._trail.is_on:
                for row in batch:
                    self._note(row, self._study)

    def _note(self, row: Sequence[Any], study: int) -> None:
        self._rows += 1
        if row[study] is not None:
            self._studies[row[study], None if self._patient is None else row[self._patient]] = None
        if len(self._studies) >= STUDIES_TOGETHER:
            self._tell()

    def end(self) -> None:
        """Tell what has passed and is not told yet."""
        if self._studies or (self._rows and not self._is_told):
            self._tell()

    def _tell(self) -> None:
        output = self._arguments.output
        target = output.absolute().as_uri() if output is not None else STANDARD_OUTPUT
        tell_exported(self._trail, target, _criteria(self._arguments), self._rows, list(self._studies))
        self._studies.clear()
        self._is_told = True


def _criteria(arguments: Namespace) -> str:
    asked = {
        "view": arguments.view,
        "study": arguments.study,
        "state": arguments.state,
        "since": arguments.since,
        "limit": arguments.limit,
        "format": arguments.format,
        "identity": arguments.identity,
    }
    given = [f"--{name} {value}" for name, value in asked.items() if value not in (None, False)]
    return " ".join(["results", *given]).replace("--identity True", "--identity")
