"""What every way of starting radstream must hold: known settings, and stops longer than the processes need."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from migrations.presence import BEAT_S
from models.audit.settings import AuditSettings
from models.audit.trail import STOP_S
from models.settings import Settings, load
from scp.settings import ScpSettings
from scp.supervisor import DRAIN_S, KILL_MARGIN_S
from worker.running import _DeliveryProcess
from worker.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UID = 10001
AUDIT_STOP_S = 3 * STOP_S
"""The last audit messages: queued, written and sent, each for so long at most."""


def child_stop_s() -> int:
    """Say how long `worker run` waits for its delivery process, by its source."""
    waits = re.findall(r"_child\.wait\((\d+)\)", inspect.getsource(_DeliveryProcess.stop))
    assert len(waits) == 1
    return int(waits[0])


def load_all(
    environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, secrets: Path | None = None
) -> tuple[Settings, ScpSettings, WorkerSettings]:
    """Load what a process loads, from exactly this environment; unknown names and wrong values are refused there."""
    for name in [name for name in os.environ if name.startswith("RADSTREAM_")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if secrets is not None:
        monkeypatch.setenv("RADSTREAM_SECRETS_DIR", str(secrets))
    load(AuditSettings)
    return load(Settings), load(ScpSettings), load(WorkerSettings)


def scp_stop_s(own: ScpSettings) -> float:
    """Longest stop of the SCP: open C-STOREs, then reporter, sweeper, notices and registrar, one after the other."""
    return own.stop_grace_s + KILL_MARGIN_S + 4 * DRAIN_S + AUDIT_STOP_S


def worker_stop_s(own: WorkerSettings, with_delivery: bool) -> float:
    """Longest stop of `worker run`: jobs in hand, delivery process, watch, pipeline, shadows, presence."""
    return (
        own.stop_grace_s + (child_stop_s() if with_delivery else 0) + 3 * own.decode_timeout_s + AUDIT_STOP_S + BEAT_S
    )


def delivery_stop_s(own: WorkerSettings) -> float:
    """Longest stop of `worker deliver`: the send under way, or the wait for a commitment report."""
    return own.longest_delivery_timeout_s + own.commitment_wait_s + AUDIT_STOP_S


def seconds(text: str) -> int:
    """Read a time like 90s, 3min or 1h."""
    for unit, factor in (("min", 60), ("h", 3600), ("s", 1)):
        if text.endswith(unit):
            return int(text.removesuffix(unit)) * factor
    return int(text)
