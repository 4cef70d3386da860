"""A server that speaks S3, in a process of its own: moto's, which keeps its objects in memory.

``python -m tests.stand_ins.s3_server --host 127.0.0.1 --port 0 --bucket radstream`` prints its endpoint on a line of
standard output when it answers. SIGUSR1 makes it refuse connections, and the next one answer again, with every object
still there; SIGSTOP makes it one that takes connections and is silent. It believes any credentials.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import select
import signal
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

BUCKET = "radstream"
ROOT = Path(__file__).parents[2]
START_S = 60.0


@dataclass
class S3Server:
    """One running server."""

    process: subprocess.Popen[bytes]
    endpoint: str
    bucket: str = BUCKET
    is_down: bool = field(default=False)

    def environment(self, prefix: str) -> dict[str, str]:
        """The settings of radstream that put spool, outbox and reports into this bucket, below a prefix."""
        return {
            "RADSTREAM_OBJECT_STORE": f"s3://{self.bucket}/{prefix}",
            "RADSTREAM_OBJECT_STORE_ENDPOINT": self.endpoint,
            "RADSTREAM_OBJECT_STORE_ACCESS_KEY_ID": "stand-in",
            "RADSTREAM_OBJECT_STORE_SECRET_ACCESS_KEY": "stand-in",
        }

    def keys(self, prefix: str) -> list[str]:
        """List the keys of objects below a prefix, in order, by a client that is not radstream's."""
        found: list[str] = []
        while True:
            query = urllib.parse.urlencode(
                {"list-type": 2, "prefix": prefix, **({"start-after": found[-1]} if found else {})}
            )
            with urllib.request.urlopen(f"{self.endpoint}/{self.bucket}?{query}") as answer:
                page = re.findall(r"<Key>([^<]*)</Key>", answer.read().decode())
            found += page
            if not page:
                return found

    def get(self, key: str) -> bytes:
        """Read an object, by a client that is not radstream's."""
        credentials = (
            "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
        )
        request = urllib.request.Request(f"{self.endpoint}/{self.bucket}/{key}", headers={"Authorization": credentials})
        with urllib.request.urlopen(request) as answer:
            return bytes(answer.read())

    def go_down(self) -> None:
        """Refuse connections from now on."""
        if not self.is_down:
            self._toggle("down")

    def come_back(self) -> None:
        """Answer again; every object is still there."""
        if self.is_down:
            self._toggle(self.endpoint)

    def freeze(self) -> None:
        """Take connections and say nothing, as a network that is cut off."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Answer again."""
        os.kill(self.process.pid, signal.SIGCONT)

    def stop(self) -> None:
        """End the process, and all objects with it."""
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def _toggle(self, expected: str) -> None:
        os.kill(self.process.pid, signal.SIGUSR1)
        said = _read_line(self.process)
        if said != expected:
            raise RuntimeError(f"the S3 server says {said!r} and not {expected!r}")
        self.is_down = not self.is_down


def start_s3(host: str = "127.0.0.1", port: int = 0, bucket: str = BUCKET, before: Sequence[str] = ()) -> S3Server:
    """Start a server and wait until it answers.

    Args:
        host: address that it listens on.
        port: 0 takes a free one.
        bucket: is made.
        before: words before the command, such as ``ip netns exec NAME``.
    """
    command = [*before, sys.executable, "-m", "tests.stand_ins.s3_server"]
    command += ["--host", host, "--port", str(port), "--bucket", bucket]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return S3Server(process, _read_line(process), bucket)


def _read_line(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], START_S)
    line = process.stdout.readline().decode().strip() if ready else ""
    if not line:
        process.kill()
        raise RuntimeError("the S3 server did not start (is moto[s3,server] installed?)")
    return line


# The process


class _Listener:
    """The HTTP server, that can be closed and opened again at the same address."""

    def __init__(self, host: str, port: int) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app

        self._application = DomainDispatcherApplication(create_backend_app)
        self._host, self._port = host, port
        self._server = self._open()

    @property
    def endpoint(self) -> str:
        return f"http://{self._host}:{self._port}"

    def _open(self):  # type: ignore[no-untyped-def]
        from werkzeug.serving import WSGIRequestHandler, make_server

        server = make_server(
            self._host, self._port, self._application, threaded=True, request_handler=WSGIRequestHandler
        )
        self._port = server.server_port
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return server

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def open_again(self) -> None:
        self._server = self._open()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--bucket", default=BUCKET)
    given = parser.parse_args(argv)
    # Moto's own S3 looks for these before it believes whatever it is told.
    os.environ.update(AWS_ACCESS_KEY_ID="stand-in", AWS_SECRET_ACCESS_KEY="stand-in")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    toggles = threading.Semaphore(0)

    def toggle(signum: int, frame: FrameType | None) -> None:
        toggles.release()

    signal.signal(signal.SIGUSR1, toggle)
    listener = _Listener(given.host, given.port)
    request = urllib.request.Request(f"{listener.endpoint}/{given.bucket}", method="PUT")
    urllib.request.urlopen(request).close()
    print(listener.endpoint, flush=True)
    while True:
        toggles.acquire()
        listener.close()
        print("down", flush=True)
        toggles.acquire()
        listener.open_again()
        print(listener.endpoint, flush=True)


if __name__ == "__main__":
    sys.exit(main())
