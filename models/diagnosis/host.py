"""What the `doctor` of every process looks at on its own host: directories, ports, limits, files that hold secrets.

Nothing is created that stays: a directory that is not there yet is told and not made.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import socket
import stat
import statistics
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from models.diagnosis.checks import Finding, failure, ok, skipped, warning

GIBIBYTE: Final = 1 << 30
SLOW_FSYNC_S: Final = 0.1
"""A single disk that turns takes some 10 ms; each accepted instance waits for two of these."""
LEAST_FREE_INODES: Final = 10_000
PROBE_BYTES: Final = 65_536

MEMORY_FILE_SYSTEMS: Final = frozenset({"tmpfs", "ramfs"})
LAYER_FILE_SYSTEMS: Final = frozenset({"overlay", "aufs"})
NETWORK_FILE_SYSTEMS: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "9p", "afs", "lustre"}
)


def file_system_of(path: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """Give the type of the file system that a path lies on, empty when the host does not tell.

    Args:
        path: need not exist.
        mounts: the table of mounts.
    """
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    place, best, found = os.path.realpath(path), -1, ""
    for line in lines:
        fields = line.split()
        if len(fields) < 3:
            continue
        point = fields[1].replace("\\040", " ")
        below = place == point or place.startswith(point.rstrip("/") + "/")
        # The later of two mounts on one point hides the earlier.
        if below and len(point) >= best:
            best, found = len(point), fields[2]
    return found


def check_directory(path: Path, what: str, setting: str, least_free_bytes: int, maker: str) -> Iterator[Finding]:
    """Look at a directory that must keep what is written to it.

    Args:
        path: the directory.
        what: its name in findings.
        setting: by which it is chosen.
        least_free_bytes: below which nothing is accepted any more.
        maker: the command that makes it.
    """
    parent = next((each for each in (path, *path.parents) if each.exists()), Path("/"))
    if parent != path:
        if os.access(parent, os.W_OK | os.X_OK):
            yield warning(
                f"{what} {path} is not there yet", f"nothing if the feed is new: {maker} makes it; else set {setting}"
            )
        else:
            yield failure(
                f"{what} {path} is not there, and cannot be made by user {os.geteuid()}",
                f"sudo install -d -o {os.geteuid()} {path}, or set {setting}",
            )
            return
    elif not path.is_dir():
        yield failure(f"{what} {path} is no directory", f"set {setting}")
        return
    else:
        yield from _written(path, what, setting)
    yield from _room(parent, what, setting, least_free_bytes)
    yield from _kind(parent, what, setting)


def _written(path: Path, what: str, setting: str) -> Iterator[Finding]:
    try:
        seconds = measure_fsync(path)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            yield failure(f"{what} {path} is full", f"free space there, or set {setting} to a larger disk")
            return
        yield failure(
            f"{what} {path} cannot be written by user {os.geteuid()} ({error.strerror})",
            f"sudo chown -R {os.geteuid()} {path}; if it is mounted read-only, mount it anew",
        )
        return
    if seconds > SLOW_FSYNC_S:
        yield warning(
            f"{what} {path}: writing {PROBE_BYTES >> 10} KiB durably takes {seconds * 1000:.0f} ms",
            f"set {setting} to a faster disk; every accepted instance waits for that",
        )
    else:
        yield ok(f"{what} {path} is writable, fsync {seconds * 1000:.1f} ms")


def measure_fsync(directory: Path) -> float:
    """Give the seconds (median of three) that writing a little durably takes.

    Raises:
        OSError: nothing can be written there.
    """
    taken = []
    with tempfile.TemporaryFile(dir=directory, prefix=".doctor-") as file:
        for _ in range(3):
            started = time.perf_counter()
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def _room(path: Path, what: str, setting: str, least_free_bytes: int) -> Iterator[Finding]:
    room = os.statvfs(path)
    free = room.f_bavail * room.f_frsize
    if free < least_free_bytes:
        yield failure(
            f"{what}: {free / GIBIBYTE:.1f} GiB free of at least {least_free_bytes / GIBIBYTE:.1f}",
            f"free space at {path}, lower RADSTREAM_SPOOL_ARCHIVE_MAX_GB, or set {setting} to a larger disk",
        )
    elif free < 3 * least_free_bytes:
        yield warning(
            f"{what}: {free / GIBIBYTE:.1f} GiB free, {least_free_bytes / GIBIBYTE:.1f} are needed",
            f"free space on the disk of {path} soon",
        )
    else:
        yield ok(f"{what}: {free / GIBIBYTE:.1f} GiB free")
    # File systems without a table of inodes (btrfs, some network ones) say 0 of 0.
    if room.f_files and room.f_favail < LEAST_FREE_INODES:
        yield failure(
            f"{what}: only {room.f_favail} inodes free", f"remove small files from the disk of {path} (df -i)"
        )


def _kind(path: Path, what: str, setting: str) -> Iterator[Finding]:
    kind = file_system_of(path)
    if kind in MEMORY_FILE_SYSTEMS:
        yield warning(f"{what} lies in memory ({kind}): a power cut empties it", f"set {setting} to a disk")
    elif kind in LAYER_FILE_SYSTEMS:
        yield warning(
            f"{what} lies in the container's own layer ({kind}): it is lost with the container",
            f"mount a volume at {path}, or set {setting} to one",
        )
    elif kind in NETWORK_FILE_SYSTEMS:
        yield warning(
            f"{what} lies on a network file system ({kind}): slow, and durable only as the server is",
            f"set {setting} to a local disk",
        )


def check_one_file_system(spool: Path) -> Iterator[Finding]:
    """See that receiving and pending lie together, since accepting an instance is a rename."""
    places = [spool / name for name in ("incoming", "pending", "set_aside")]
    devices = {place.stat().st_dev for place in places if place.exists()}
    if len(devices) > 1:
        yield failure(
            f"{spool}: incoming, pending and set_aside lie on several file systems",
            "mount the spool directory as one, not directories in it",
        )


# Ports


def check_telemetry(address: str, port: int, setting: str, process: str, timeout_s: float) -> Iterator[Finding]:
    """See whether the metrics port is free, or answers as a process of ours, and whether that one is ready."""
    if port == 0:
        yield skipped(f"{process}: any free port is taken ({setting}=0)")
        return
    host = _reachable(address)
    try:
        alive = json.loads(_get(f"http://{host}:{port}/healthz", timeout_s))
    except (OSError, ValueError):
        yield _free_or_taken(address, port, setting, process)
        return
    if not isinstance(alive, dict) or alive.get("alive") is not True:
        yield failure(
            f"{process}: port {port} answers, but not as radstream", f"end what listens there, or set {setting}"
        )
        return
    try:
        _get(f"http://{host}:{port}/readyz", timeout_s)
    except urllib.error.HTTPError as error:
        with error:
            failing = json.loads(error.read()).get("failing", {})
        told = ", ".join(f"{name}: {reason}" for name, reason in sorted(failing.items()))
        yield failure(f"{process} runs, but is not ready ({told})", "mend what it names; the checks of that say how")
        return
    yield ok(f"{process} runs and is ready (port {port})")


def _free_or_taken(address: str, port: int, setting: str, process: str) -> Finding:
    try:
        with socket.create_server((address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET):
            return ok(f"{process}: port {port} is free; it does not run on this host")
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return failure(
                f"{process}: port {port} is taken by something else",
                f"see what listens (ss -ltnp 'sport = :{port}'), or set {setting}",
            )
        return failure(f"{process}: cannot listen on {address}:{port} ({error.strerror})", f"set {setting}")


def _reachable(address: str) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(address, address)
    return f"[{host}]" if ":" in host else host


def _get(url: str, timeout_s: float) -> bytes:
    # No proxy of the environment: this is the host itself.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=timeout_s) as answer:
        content: bytes = answer.read(65_536)
    return content


# Limits


def check_open_files(needed: int) -> Iterator[Finding]:
    """Compare the limit of open files with what a process needs."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        yield failure(
            f"only {soft} open files are allowed, {needed} are needed",
            f"ulimit -n {needed}; LimitNOFILE={needed} in a systemd unit, --ulimit nofile={needed} of a container",
        )
    else:
        yield ok(f"open files: {'unlimited' if soft == resource.RLIM_INFINITY else soft} allowed, {needed} needed")


def memory_limit(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int | None:
    """Give the bytes that the container or unit may take, None without a limit (control groups v2, else v1)."""
    limits = []
    try:
        lines = own.read_text().splitlines()
    except OSError:
        lines = []
    group = next((line.partition("::")[2] for line in lines if line.startswith("0::")), "")
    place = root / group.lstrip("/")
    for directory in (place, *place.parents):
        if directory == root or root in directory.parents:
            limits.append(_number(directory / "memory.max"))
    limits.append(_number(root / "memory" / "memory.limit_in_bytes"))
    # Version 1 says "no limit" by a number near 2^63.
    real = [limit for limit in limits if limit is not None and limit < 1 << 60]
    return min(real, default=None)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def check_memory(needed_bytes: int, how: str) -> Iterator[Finding]:
    """Compare the memory that the process may take with what it needs.

    Args:
        needed_bytes: an estimate.
        how: setting to lower.
    """
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = memory_limit()
    allowed = host if limit is None else min(limit, host)
    where = "of this host" if limit is None or limit >= host else "of the container"
    text = f"memory: {allowed / GIBIBYTE:.1f} GiB {where}, about {needed_bytes / GIBIBYTE:.1f} needed"
    if allowed < needed_bytes:
        yield warning(text, f"allow more, or lower {how}")
    else:
        yield ok(text)


def usable_cores() -> int:
    """Cores that this process may use, by affinity and by the quota of its control group."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return cores if quota == "max" else max(1, min(cores, round(int(quota) / int(period))))
    except (OSError, ValueError):
        return cores


# Files that hold secrets


def check_private(path: Path, what: str) -> Iterator[Finding]:
    """See that a file with a secret can be read by us and not by everybody."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        yield failure(f"{what} {path} cannot be read ({error.strerror})", f"put it there, or correct its path: {path}")
        return
    if not os.access(path, os.R_OK):
        yield failure(f"{what} {path} cannot be read by user {os.geteuid()}", f"sudo chown {os.geteuid()} {path}")
    elif mode & stat.S_IROTH:
        yield failure(f"{what} {path} can be read by everybody on this host", f"chmod 600 {path}")
    else:
        yield ok(f"{what} {path} is readable by us, not by everybody")
