"""How the parts of a feed are started on one machine."""

from __future__ import annotations

import random
import socket
import sys
from pathlib import Path

import pytest

from deploy.launcher import Feed, FeedOptions, LaunchError, free_port


def test_a_free_port_is_none_that_outgoing_connections_get() -> None:
    range_file = Path("/proc/sys/net/ipv4/ip_local_port_range")
    lowest = int(range_file.read_text().split()[0]) if range_file.exists() else 32_768
    assert all(free_port() < lowest for _ in range(20))


def test_a_port_that_is_listened_on_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", free_port()))
        listener.listen()
        taken = listener.getsockname()[1]
        other = free_port()
        drawn = iter([taken, other])
        monkeypatch.setattr("deploy.launcher._RANDOM.randrange", lambda *_: next(drawn))
        assert free_port() == other


def test_a_seed_does_not_say_which_port_is_drawn() -> None:
    drawn = set()
    for _ in range(4):
        random.seed(0)
        drawn.add(free_port())
    assert len(drawn) > 1


def test_a_process_that_ends_at_once_is_reported_with_what_it_said(tmp_path: Path) -> None:
    feed = Feed(FeedOptions(tmp_path))
    feed.worker.command = [sys.executable, "-c", "import sys; sys.exit('no such destination')"]
    feed.worker.start()
    with pytest.raises(LaunchError, match=r"worker ended before it was ready.*\n  no such destination"):
        feed.wait_ready(feed.worker, feed.worker_telemetry_port, 30)
