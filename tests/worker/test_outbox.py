"""The outbox: what is cleaned out of it and when, and names that never leave it."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session, sessionmaker

from models.records.base import utc_now
from models.records.outputs import Delivery, DeliveryState
from worker.outbox import Outbox
from worker.outbox_cleaning import clean_outbox
from worker.settings import Recipient
from worker.settlement import Settlement


def test_only_files_that_arrived_everywhere_long_ago_are_cleaned_away(
    sessions: sessionmaker[Session], outbox: Outbox, outcomes: Any, put_output: Callable[[str], Path]
) -> None:
    long_ago = utc_now() - timedelta(days=8)
    uids = ["2.25.1", "2.25.2", "2.25.3", "2.25.4", "2.25.5"]
    for uid in uids:
        put_output(uid)
    settlement = Settlement(sessions, "keep_first", [Recipient(name="archive"), Recipient(name="workstation")])
    settlement.settle([outcomes.done(f"{uid}.9", output_uid=uid) for uid in uids])
    with sessions.begin() as session:
        session.execute(update(Delivery).values(state=DeliveryState.DELIVERED, delivered_at=long_ago))
        deliveries = list(session.scalars(select(Delivery).order_by(Delivery.id)))
        deliveries[2].state, deliveries[2].delivered_at = DeliveryState.PENDING, None  # of 2.25.2
        deliveries[4].state, deliveries[4].delivered_at = DeliveryState.DEAD, None  # of 2.25.3
        deliveries[6].delivered_at = utc_now()  # of 2.25.4
    orphan, part, fresh = outbox.root / "2.25.8.dcm", outbox.root / ".2.25.9.dcm.1.part", outbox.root / "2.25.7.dcm"
    for path in (orphan, part, fresh):
        path.write_bytes(b"")
    for path in outbox.root.iterdir():
        if path not in (fresh, outbox.path_of("2.25.5.dcm")):
            os.utime(path, (long_ago.timestamp(),) * 2)
    assert clean_outbox(sessions, outbox, keep_days=7) == 2
    assert sorted(path.name for path in outbox.root.iterdir()) == [
        "2.25.2.dcm",
        "2.25.3.dcm",
        "2.25.4.dcm",
        "2.25.5.dcm",
        "2.25.7.dcm",
    ]


def test_a_file_name_never_leaves_the_outbox(outbox: Outbox) -> None:
    for name in ("../x", "/etc/passwd", ".hidden", "a/b"):
        with pytest.raises(ValueError, match="not an outbox file name"):
            outbox.path_of(name)
    outbox.discard("never_there.dcm")
