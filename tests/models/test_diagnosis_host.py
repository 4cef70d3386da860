"""What is looked at on the host itself, each with a planted fault."""

from __future__ import annotations

import errno
import json
import resource
import socket
from collections.abc import Iterable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from models.diagnosis import host
from models.diagnosis.checks import Finding, Severity
from models.telemetry import TelemetryServer

MOUNTS = """\
/dev/sda1 /data ext4 rw 0 0
overlay / overlay rw 0 0
server:/export /data/shared nfs4 rw 0 0
tmpfs /with\\040space tmpfs rw 0 0
/dev/sdb1 /data/shared/disk xfs rw 0 0
"""


def _bad(findings: Iterable[Finding]) -> list[Finding]:
    bad = [each for each in findings if each.severity in {Severity.WARNING, Severity.FAILURE}]
    assert all(each.remedy for each in bad)
    return bad


def _directory(path: Path, least_free_bytes: int = 1) -> list[Finding]:
    return list(host.check_directory(path, "spool", "RADSTREAM_SPOOL_DIR", least_free_bytes, "python -m scp"))


def test_a_good_directory_is_written_to_and_left_empty(tmp_path: Path) -> None:
    texts = [each.text for each in _directory(tmp_path) if each.severity is Severity.OK]
    assert texts[0].startswith(f"spool {tmp_path} is writable, fsync ")
    assert "GiB free" in texts[1]
    assert list(tmp_path.iterdir()) == []


def test_an_absent_directory_is_told_and_not_made(tmp_path: Path) -> None:
    (found, *_) = _bad(_directory(tmp_path / "a" / "spool"))
    assert found.severity is Severity.WARNING
    assert "python -m scp makes it" in found.remedy
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_written_says_so() -> None:
    # Nobody can make a file in /proc, not even root.
    (found, *_) = _bad(_directory(Path("/proc")))
    assert found.severity is Severity.FAILURE
    assert "cannot be written" in found.text
    assert "chown" in found.remedy


def test_a_full_disk_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(directory: Path) -> float:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(host, "measure_fsync", full)
    (found, *_) = _bad(_directory(tmp_path))
    assert (found.severity, found.text) == (Severity.FAILURE, f"spool {tmp_path} is full")


def test_less_space_than_is_accepted_with_is_a_failure(tmp_path: Path) -> None:
    (found,) = _bad(_directory(tmp_path, 1 << 60))
    assert found.severity is Severity.FAILURE
    assert "GiB free of at least 1073741824.0" in found.text
    assert "RADSTREAM_SPOOL_DIR" in found.remedy


def test_a_slow_disk_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "measure_fsync", lambda directory: 0.25)
    (found,) = _bad(_directory(tmp_path))
    assert "takes 250 ms" in found.text


def test_a_file_in_place_of_a_directory_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "spool").write_bytes(b"")
    assert _bad(_directory(tmp_path / "spool"))[0].text.endswith("is no directory")


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/x", "overlay"),
        ("/data/spool/not/there", "ext4"),
        ("/data/shared/spool", "nfs4"),
        ("/data/shared/disk/spool", "xfs"),
        ("/database", "overlay"),
        ("/with space/spool", "tmpfs"),
    ],
)
def test_a_path_lies_on_the_mount_nearest_to_it(path: str, kind: str, tmp_path: Path) -> None:
    (tmp_path / "mounts").write_text(MOUNTS)
    assert host.file_system_of(Path(path), tmp_path / "mounts") == kind


@pytest.mark.parametrize(("kind", "word"), [("tmpfs", "power cut"), ("overlay", "container"), ("nfs4", "network")])
def test_a_file_system_that_does_not_keep_is_a_warning(
    kind: str, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "file_system_of", lambda path: kind)
    (found,) = _bad(_directory(tmp_path))
    assert (found.severity, word in found.text) == (Severity.WARNING, True)


def test_spool_directories_on_several_file_systems_are_a_failure(tmp_path: Path) -> None:
    (tmp_path / "pending").mkdir()
    assert list(host.check_one_file_system(tmp_path)) == []
    (tmp_path / "incoming").symlink_to("/proc")
    assert _bad(host.check_one_file_system(tmp_path))[0].severity is Severity.FAILURE


# Ports


def _telemetry(port: int) -> Finding:
    (found,) = host.check_telemetry("127.0.0.1", port, "RADSTREAM_PORT", "scp", 0.5)
    return found


def test_a_metrics_port_is_free_ours_not_ready_or_anothers() -> None:
    failing: list[str] = []
    server = TelemetryServer("127.0.0.1", 0, CollectorRegistry(), {"space": lambda: failing[0] if failing else None})
    server.start()
    assert _telemetry(server.port).text == f"scp runs and is ready (port {server.port})"
    failing.append("out_of_space")
    found = _telemetry(server.port)
    assert (found.severity, "space: out_of_space" in found.text) == (Severity.FAILURE, True)
    server.stop()
    assert "is free" in _telemetry(server.port).text

    with socket.create_server(("127.0.0.1", server.port)):  # it never answers
        found = _telemetry(server.port)
    assert (found.severity, "taken by something else" in found.text) == (Severity.FAILURE, True)
    assert "ss -ltnp" in found.remedy


# Limits


def test_too_few_open_files_are_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, 4096))
    (found,) = _bad(host.check_open_files(512))
    assert "only 256 open files" in found.text
    assert "ulimit -n 512" in found.remedy
    assert _bad(host.check_open_files(256)) == []


def test_the_least_limit_of_a_control_group_and_those_above_counts(tmp_path: Path) -> None:
    root, own = tmp_path / "cgroup", tmp_path / "own"
    (root / "a" / "b").mkdir(parents=True)
    own.write_text("0::/a/b\n")
    assert host.memory_limit(root, own) is None
    (root / "a" / "memory.max").write_text("2147483648\n")
    (root / "a" / "b" / "memory.max").write_text("max\n")
    assert host.memory_limit(root, own) == 2147483648
    (root / "a" / "b" / "memory.max").write_text("1000\n")
    assert host.memory_limit(root, own) == 1000


def test_a_container_smaller_than_what_is_needed_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "memory_limit", lambda: 1 << 29)
    (found,) = _bad(host.check_memory(1 << 30, "RADSTREAM_WORKER_DECODERS"))
    assert found.text == "memory: 0.5 GiB of the container, about 1.0 needed"
    assert "RADSTREAM_WORKER_DECODERS" in found.remedy


def test_a_secret_that_everybody_can_read_is_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("hunter2")
    path.chmod(0o600)
    assert _bad(host.check_private(path, "token")) == []
    path.chmod(0o644)
    (found,) = _bad(host.check_private(path, "token"))
    assert (found.severity, found.remedy) == (Severity.FAILURE, f"chmod 600 {path}")
    assert _bad(host.check_private(tmp_path / "none", "token"))[0].severity is Severity.FAILURE
    assert "hunter2" not in json.dumps([each.text for each in host.check_private(path, "token")])
