"""The processes `run` and `deliver` from outside: how they start, wait, refuse and stop."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine

from migrations.schema import migrate
from models.errors import ConfigurationError
from models.settings import Settings
from models.store.store import ModelStore
from models.tasks import Task
from worker.running import check_schema, connect_redis, engine_loader
from worker.settings import WorkerSettings

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def environment(tmp_path: Path, redis_server: Any, sqlite_template: Path) -> dict[str, str]:
    """Variables of a feed with a migrated database and an empty Redis."""
    if ModelStore(Settings().model_store).active(Task.PNEUMONIA) is None:
        pytest.skip("no model version is shipped")
    database = tmp_path / "feed.db"
    database.write_bytes(sqlite_template.read_bytes())
    return {
        "RADSTREAM_DATA_DIR": str(tmp_path / "data"),
        "RADSTREAM_DATABASE_URL": f"sqlite:///{database}",
        "RADSTREAM_REDIS_URL": redis_server.url,
        "RADSTREAM_WORKER_TELEMETRY_PORT": "0",
        "RADSTREAM_WORKER_DELIVERY_TELEMETRY_PORT": "0",
        "RADSTREAM_WORKER_DECODERS": "1",
    }


@pytest.fixture
def start(environment: dict[str, str], project_root: Path) -> Iterator[Start]:
    """Start `python -m worker ...`; what still runs when the test ends is killed."""
    processes: list[subprocess.Popen[str]] = []

    def begin(*arguments: str, **changes: str) -> subprocess.Popen[str]:
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "worker", *arguments],
                cwd=project_root,
                env={**os.environ, **environment, **changes},
                stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
            )
        )
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def _until(process: subprocess.Popen[str], event: str) -> dict[str, Any]:
    """Read the log until an event."""
    assert process.stderr is not None
    for line in process.stderr:
        found: dict[str, Any] = json.loads(line)
        if found["event"] == event:
            return found
    raise AssertionError(f"the process ended without {event}")


def _answer(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return str(answer.read().decode())


def test_a_worker_starts_is_ready_and_stops_in_good_order(start: Start) -> None:
    process = start("run")
    assert _until(process, "engine_loaded")["task"] == "pneumonia"
    port = _until(process, "telemetry_started")["port"]
    _until(process, "worker_started")
    assert json.loads(_answer(port, "/readyz")) == {"ready": True, "failing": {}}
    assert "radstream_worker_engine_info{precision=" in _answer(port, "/metrics")
    process.terminate()
    assert _until(process, "worker_stopped")["left_in_hand"] == 0
    assert process.wait(30) == 0


def test_the_delivery_process_comes_and_goes_with_the_worker(start: Start) -> None:
    destination = '[{"name": "archive", "host": "127.0.0.1", "port": 1, "ae_title": "ARCHIVE"}]'
    process = start("run", RADSTREAM_WORKER_DESTINATIONS=destination)
    assert _until(process, "delivery_started")["process"] == "delivery"
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert process.stderr is not None
    events = [json.loads(line)["event"] for line in process.stderr]
    assert "delivery_stopped" in events
    assert "delivery_died" not in events


PARENT = """
import os, subprocess, sys
subprocess.run([sys.executable, "-m", "worker", "deliver", "--parent-pid", str(os.getpid())])
"""


def test_a_delivery_process_whose_worker_was_killed_ends_in_good_order(
    environment: dict[str, str], project_root: Path
) -> None:
    destination = '[{"name": "archive", "host": "127.0.0.1", "port": 1, "ae_title": "ARCHIVE"}]'
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        cwd=project_root,
        env={**os.environ, **environment, "RADSTREAM_WORKER_DESTINATIONS": destination},
        stderr=subprocess.PIPE,
        text=True,
    )
    _until(parent, "delivery_started")
    parent.kill()
    _until(parent, "delivery_stopped")
    parent.communicate()


def test_a_worker_waits_for_redis_and_can_be_stopped_while_it_waits(start: Start, tmp_path: Path) -> None:
    process = start("run", RADSTREAM_REDIS_URL=f"unix://{tmp_path / 'nobody.sock'}")
    assert _until(process, "waiting")["reason"] == "redis_unavailable"
    process.terminate()
    assert process.wait(30) == 0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"RADSTREAM_MODEL_STORE": "{tmp}/empty"}, "RADSTREAM_MODEL_STORE: no task has an active model version there"),
        ({"RADSTREAM_DATABASE_URL": "sqlite:///{tmp}/new.db"}, "run `python -m worker migrate`"),
        ({"RADSTREAM_WORKER_ROUTING_FILE": "{tmp}/none.toml"}, "routing rules: cannot read"),
        ({"RADSTREAM_WORKER_TELEMETRY_PORT": "{taken}"}, "telemetry port {taken} on 127.0.0.1 cannot be opened"),
        ({"RADSTREAM_REDIS_URL": "http://127.0.0.1"}, "RADSTREAM_REDIS_URL: not a Redis URL"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_the_operator_must_mend_is_one_last_line_and_exit_status_2(
    start: Start, tmp_path: Path, changes: dict[str, str], expected: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        words = {"tmp": str(tmp_path), "taken": str(taken.getsockname()[1])}
        process = start("run", **{name: value.format(**words) for name, value in changes.items()})
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "Traceback" not in stderr
    assert stderr.splitlines()[-1].startswith("radstream: ")
    assert expected.format(**words) in stderr.splitlines()[-1]


def test_a_database_at_another_level_is_refused_with_what_to_type(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'x.db'}")
    with pytest.raises(ConfigurationError, match=r"at migration none, this version needs .*worker migrate"):
        check_schema(engine)
    migrate(engine)
    check_schema(engine)
    engine.dispose()


def test_an_unknown_provider_or_precision_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"ENGINE_PROVIDER: abacus is unknown; known are onnxruntime"):
        engine_loader(WorkerSettings(engine_provider="abacus"))
    with pytest.raises(ConfigurationError, match=r"ENGINE_PRECISION: int3 is unknown; known are .*int8"):
        engine_loader(WorkerSettings(engine_precision="int3"))


def test_a_wrong_redis_url_is_refused_without_being_quoted() -> None:
    with pytest.raises(ConfigurationError) as caught:
        connect_redis(Settings(redis_url="http://:secret@host"))
    assert "secret" not in str(caught.value)
