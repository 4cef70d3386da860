"""The age of the oldest unfinished instance, which the alert on a backlog reads."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, cast

from prometheus_client import CollectorRegistry

from models.requests import Lane
from models.spool import Spool
from scp.metrics import SharedMetrics
from scp.scoreboard import Scoreboard
from scp.sweeper import Sweeper

CR = "1.2.840.10008.5.1.4.1.1.1"


def test_the_oldest_pending_instance_tells_its_age_until_it_is_gone(tmp_path: Path) -> None:
    spool, scoreboard = Spool(tmp_path), Scoreboard(1)
    spool.prepare()
    unused = cast(Any, None)
    sweeper = Sweeper(spool, unused, unused, scoreboard, unused, 15.0, 1000)
    registry = CollectorRegistry()
    registry.register(SharedMetrics(scoreboard, spool, sweeper))

    def age_s() -> float | None:
        sweeper.count()
        return registry.get_sample_value("radstream_scp_spool_oldest_seconds")

    assert age_s() == 0
    keys = [_accept(spool, f"1.2.3.{number}") for number in range(2)]
    accepted_at = time.time() - 900
    os.utime(spool.path_of(keys[1]), (accepted_at, accepted_at))
    assert 900 <= (age_s() or 0) < 930
    spool.finish(keys[1])
    assert (age_s() or 0) < 30


def _accept(spool: Spool, uid: str) -> str:
    with spool.begin(
        sop_class_uid=CR,
        sop_instance_uid=uid,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        calling_ae_title="CR1",
        called_ae_title="RADSTREAM",
        lane=Lane.ROUTINE,
    ) as writer:
        writer.write(b"dataset")
        return writer.commit()
