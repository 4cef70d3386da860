"""A Redis that keeps what it is told to keep, and is killed: no shutdown, no last save."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from redis import Redis
from redis.exceptions import RedisError

from deploy.launcher import redis_executable, wait_until

APPENDS: Final = ("--appendonly", "yes", "--appendfsync", "everysec", "--save", "")
SAVES: Final = ("--appendonly", "no", "--save", "3600 1")
KEEPS_NOTHING: Final = ("--appendonly", "no", "--save", "")


class KeptRedis:
    """One server on a Unix socket, with a directory that outlives its process."""

    def __init__(self, *options: str) -> None:
        # A short name: the path of a socket may have 107 characters.
        self._directory = Path(tempfile.mkdtemp(prefix="radstream-redis-"))
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{self._directory}/redis.sock"
        self.client = Redis.from_url(self.url)

    def start(self) -> None:
        """Start, and wait until what it kept is loaded."""
        place = ["--port", "0", "--unixsocket", f"{self._directory}/redis.sock", "--dir", str(self._directory)]
        self._process = subprocess.Popen([redis_executable(), *place, *self._options], stdout=subprocess.DEVNULL)
        if not wait_until(self._answers, 30, 0.02):
            raise RuntimeError("Redis did not start")

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except RedisError:
            return False

    def kill(self) -> None:
        """End it by SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def remove(self) -> None:
        """End it and forget what it kept."""
        self.kill()
        self.client.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def contents(self) -> dict[bytes, object]:
        """Everything it holds, by key; for how long a key lives is left out."""
        return {key: self._value(key) for key in self.client.scan_iter(count=1000)}

    def _value(self, key: bytes) -> object:
        kind = self.client.type(key)
        if kind == b"hash":
            return self.client.hgetall(key)
        if kind == b"list":
            return self.client.lrange(key, 0, -1)
        if kind == b"zset":
            return self.client.zrange(key, 0, -1, withscores=True)
        return self.client.smembers(key) if kind == b"set" else self.client.get(key)
