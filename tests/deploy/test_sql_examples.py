"""The worked examples of SQL give the answers that were worked out by hand, on both databases."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

sys.path.insert(0, str(Path(__file__).parents[1] / "stand_ins"))

from stand_in_records import Records

Sessions = sessionmaker[Session]
Ask = Callable[[Sessions, str], list[tuple[Any, ...]]]


@pytest.fixture(scope="session")
def ask(project_root: Path) -> Ask:
    """Run an example as it is published."""

    def run(sessions: Sessions, name: str) -> list[tuple[Any, ...]]:
        statement = (project_root / "deploy" / "sql" / f"{name}.sql").read_text()
        with sessions() as session:
            rows = session.execute(text(statement)).all()
        return [tuple(str(value) if isinstance(value, date) else value for value in row) for row in rows]

    return run


def test_every_example_is_tested(project_root: Path) -> None:
    published = {path.stem for path in (project_root / "deploy" / "sql").glob("*.sql")}
    assert published == {"positive_share_by_week", "worsening_congestion", "score_drift"}


def test_positive_share_by_week_and_sender(sessions: Sessions, ask: Ask) -> None:
    sunday, monday = datetime(2026, 1, 4, 23, 30, tzinfo=UTC), datetime(2026, 1, 5, 0, 30, tzinfo=UTC)
    with sessions.begin() as session:
        write = Records(session)
        series = write.series("1", "1.1")
        sent = [
            (sunday, "WARD", 0.75),
            (sunday, "WARD", 0.25),
            (sunday, "WARD", 0.5),
            (sunday, "WARD", 0.0),
            (sunday, "CLINIC", 0.125),
            (monday, "WARD", 0.875),
        ]
        for number, (moment, sender, probability) in enumerate(sent):
            write.finding(
                write.instance(f"1.{number}", series, received_at=moment, calling_ae_title=sender), probability
            )
        write.finding(write.instance("2.1", series, received_at=monday, calling_ae_title="WARD"), 0.25, "2.0")
        write.instance("2.2", series, received_at=monday, calling_ae_title="WARD")  # of no task
    assert [(*row[:5], float(row[5]), row[6]) for row in ask(sessions, "positive_share_by_week")] == [
        ("2025-12-29", "CLINIC", "1.0", 1, 0, 0.0, 0.125),
        # 0.75 and 0.5 are positive; (0.75 + 0.25 + 0.5 + 0) / 4 = 0.375.
        ("2025-12-29", "WARD", "1.0", 4, 2, 0.5, 0.375),
        ("2026-01-05", "WARD", "1.0", 1, 1, 1.0, 0.875),
        ("2026-01-05", "WARD", "2.0", 1, 0, 0.0, 0.25),
    ]


def test_worsening_congestion_of_one_patient_by_one_version(sessions: Sessions, ask: Ask) -> None:
    studies = [
        # Jane: 0.5, 1.0, 0.75, 2.0 by version 3.0, and 3.0 by another; two of them of one day, in the order received.
        ("1", date(2026, 1, 1), ("JANE", "CLINIC"), 0.5, "3.0"),
        ("2", date(2026, 1, 8), ("JANE", "CLINIC"), 1.0, "3.0"),
        ("4", date(2026, 1, 15), ("JANE", "CLINIC"), 2.0, "3.0"),
        ("3", date(2026, 1, 15), ("JANE", "CLINIC"), 0.75, "3.0"),
        ("5", date(2026, 1, 16), ("JANE", "CLINIC"), 3.0, "4.0"),
        # The same number elsewhere; improving; ungradable; nobody.
        ("6", date(2026, 1, 2), ("JANE", "OTHER"), 3.0, "3.0"),
        ("7", date(2026, 1, 1), ("ROE", None), 2.0, "3.0"),
        ("8", date(2026, 1, 9), ("ROE", None), 1.0, "3.0"),
        ("9", date(2026, 1, 9), ("DOE", None), None, "3.0"),
        ("10", date(2026, 1, 10), ("DOE", None), 2.0, "3.0"),
        ("11", date(2026, 1, 1), (None, None), 0.0, "3.0"),
        ("12", date(2026, 1, 2), (None, None), 3.0, "3.0"),
    ]
    received = datetime(2026, 1, 20, tzinfo=UTC)
    with sessions.begin() as session:
        write = Records(session)
        for uid, day, (patient_id, issuer), mean, version in studies:
            write.study(uid, day, patient_id=patient_id, patient_id_issuer=issuer)
            # Received by the number: "3" before "4".
            film = write.instance(
                f"{uid}.1", write.series(uid, f"{uid}.0"), received_at=received + timedelta(hours=int(uid))
            )
            write.congestion(
                film, (1,) * 6 if mean is not None else (None,) * 6, mean, None if mean is None else "low", version
            )
    assert ask(sessions, "worsening_congestion") == [
        ("JANE", "CLINIC", "4", "2026-01-15", "3.0", 0.75, 2.0, 1.25),
        ("JANE", "CLINIC", "2", "2026-01-08", "3.0", 0.5, 1.0, 0.5),
    ]


def test_score_drift_against_the_month_before(sessions: Sessions, ask: Ask) -> None:
    answers = {
        datetime(2025, 12, 10, tzinfo=UTC): (0.25, 0.25),
        datetime(2026, 1, 10, tzinfo=UTC): (0.75, 0.25),
        datetime(2026, 3, 10, tzinfo=UTC): (0.875,),
    }
    with sessions.begin() as session:
        write = Records(session)
        series = write.series("1", "1.1")
        for moment, probabilities in answers.items():
            for number, probability in enumerate(probabilities):
                film = write.instance(f"1.{moment.month}.{number}", series, received_at=moment)
                write.finding(film, probability, inferred_at=moment)
                write.spine(film, (20,), "low_confidence" if number else None, inferred_at=moment)
    assert ask(sessions, "score_drift") == [
        ("landmarks", "5.0", "2025-12-01", 2, 0.75, None, None, None),
        ("landmarks", "5.0", "2026-01-01", 2, 0.75, 0.0, None, 0.0),
        ("landmarks", "5.0", "2026-03-01", 1, 0.75, None, None, None),
        ("pneumonia", "1.0", "2025-12-01", 2, 0.25, None, None, None),
        # Mean 0.5 after 0.25, and one of two positive after none.
        ("pneumonia", "1.0", "2026-01-01", 2, 0.5, 0.25, 0.5, None),
        # February has no answers, so that March has nothing to be set against.
        ("pneumonia", "1.0", "2026-03-01", 1, 0.875, None, None, None),
    ]
