"""Hosts on this machine, each in a network namespace of its own, joined by a switch that can cut any of them off.

Made with `ip` of iproute2, as root; nothing of the machine's own network is touched. A host is a network, not a file
system: give each process a directory that it shares with no other host.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from deploy.launcher import wait_until

SUBNET: Final = "10.77.0"
CLONE_NEWNET: Final = 0x40000000
"""Of sched.h: the kind of namespace that setns(2) is to enter."""
NOBODY: Final = "02:00:00:00:00:01"
"""An address of the link that no host has."""
OWN_NETWORK: Final = "/proc/thread-self/ns/net"


class NoNamespacesError(RuntimeError):
    """Network namespaces cannot be made here; the message says why."""


class Network:
    """A switch, and the hosts on it; a context manager that leaves nothing behind."""

    def __init__(self) -> None:
        self._prefix = f"radstream-{os.getpid()}-{threading.get_native_id()}"
        self._switch = f"{self._prefix}-switch"
        self._hosts: list[Host] = []

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise NoNamespacesError("network namespaces need root")
        if shutil.which("ip") is None:
            raise NoNamespacesError("ip is not installed (Debian: iproute2)")
        try:
            _ip("netns", "add", self._switch)
            _ip("-n", self._switch, "link", "add", "br0", "type", "bridge")
            _ip("-n", self._switch, "link", "set", "br0", "up")
        except RuntimeError as error:
            self.close()
            raise NoNamespacesError(f"network namespaces cannot be made: {error}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def host(self, name: str) -> Host:
        """Put a host on the switch; its name has at most 13 characters, and its address follows the order of making."""
        host = Host(name, f"{self._prefix}-{name}", self._switch, f"{SUBNET}.{len(self._hosts) + 1}")
        self._hosts.append(host)
        _ip("netns", "add", host.namespace)
        inside, outside = ("-n", host.namespace), ("-n", self._switch)
        _ip(*inside, "link", "add", "eth0", "type", "veth", "peer", "name", f"p-{name}", "netns", self._switch)
        _ip(*inside, "address", "add", f"{host.address}/24", "dev", "eth0")
        for link in ("lo", "eth0"):
            _ip(*inside, "link", "set", link, "up")
        _ip(*outside, "link", "set", f"p-{name}", "master", "br0")
        _ip(*outside, "link", "set", f"p-{name}", "up")
        return host

    def close(self) -> None:
        """End every process on every host, and remove them and the switch."""
        for host in self._hosts:
            host.kill()
        for name in (*(host.namespace for host in self._hosts), self._switch):
            with suppress(RuntimeError):
                _ip("netns", "delete", name)
        self._hosts.clear()


class Host:
    """One host of a `Network`."""

    def __init__(self, name: str, namespace: str, switch: str, address: str) -> None:
        self.name = name
        self.namespace = namespace
        self.address = address
        self._switch = switch

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Let the calling thread be on this host, with the processes and threads that it starts meanwhile."""
        with open(OWN_NETWORK) as before:
            _enter(Path("/run/netns", self.namespace))
            try:
                yield
            finally:
                _set_namespace(before.fileno())

    def cut_off(self) -> None:
        """Let the switch drop whatever comes from or goes to the host; nobody is told, as when a switch dies."""
        _ip("-n", self._switch, "link", "set", f"p-{self.name}", "nomaster")

    def rejoin(self) -> None:
        """Put it on the switch again."""
        _ip("-n", self._switch, "link", "set", f"p-{self.name}", "master", "br0")

    def unplug(self) -> None:
        """Set the link itself down, which the host sees at once."""
        _ip("-n", self.namespace, "link", "set", "eth0", "down")

    def plug_in(self) -> None:
        """Set it up again."""
        _ip("-n", self.namespace, "link", "set", "eth0", "up")

    def lose(self, other: Host) -> None:
        """Send whatever goes to one other host into the void, and nothing else; nobody is told."""
        _ip("-n", self.namespace, "neigh", "replace", other.address, "lladdr", NOBODY, "dev", "eth0")

    def find(self, other: Host) -> None:
        """Reach it again."""
        _ip("-n", self.namespace, "neigh", "delete", other.address, "dev", "eth0")

    def pull_power(self) -> None:
        """End every process by SIGKILL, and let no FIN or RST of it out: peers hear nothing more, ever."""
        self.cut_off()
        self.kill()

    def kill(self) -> None:
        """End every process on the host by SIGKILL, except this one, whose threads may be there."""
        if not wait_until(lambda: not self._kill_once(), 20, 0.02):
            raise RuntimeError(f"processes on {self.name} do not end")

    def _kill_once(self) -> list[int]:
        try:
            found = _ip("netns", "pids", self.namespace).split()
        except RuntimeError:
            return []  # it was never made
        others = [int(number) for number in found if int(number) != os.getpid() and not _is_zombie(int(number))]
        for number in others:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        return others


def _is_zombie(pid: int) -> bool:
    try:
        # The state follows the name, which is in brackets and may hold anything.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in {"Z", "X"}
    except (OSError, IndexError):
        return True


def _enter(namespace: Path) -> None:
    with namespace.open() as file:
        _set_namespace(file.fileno())


def _set_namespace(descriptor: int) -> None:
    # os.setns exists from Python 3.12 on.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


def _ip(*arguments: str) -> str:
    """Run `ip`.

    Raises:
        RuntimeError: with what it says.
    """
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
