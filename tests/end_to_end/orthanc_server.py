"""Orthanc as a peer of a feed."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

from deploy.launcher import free_port, wait_until


class Orthanc:
    """An Orthanc server on loopback, its storage in a directory of its own; it knows the feed as `radstream`.

    `lua` is a script with its callbacks, `more` are further settings.
    """

    def __init__(
        self,
        program: str,
        directory: Path,
        feed_port: int,
        lua: str | None = None,
        more: dict[str, object] | None = None,
    ) -> None:
        self.http_port, self.dicom_port = free_port(), free_port()
        configuration = {
            "Name": "test",
            "StorageDirectory": str(directory / "storage"),
            "IndexDirectory": str(directory / "storage"),
            "HttpPort": self.http_port,
            "DicomPort": self.dicom_port,
            "DicomAet": "ORTHANC",
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomModalities": {"radstream": ["RADSTREAM", "127.0.0.1", feed_port]},
            "Plugins": [],
            "LuaScripts": [] if lua is None else [str(directory / "script.lua")],
            **(more or {}),
        }
        directory.mkdir()
        if lua is not None:
            (directory / "script.lua").write_text(lua)
        file = directory / "orthanc.json"
        file.write_text(json.dumps(configuration))
        self._log = (directory / "log").open("wb")
        self._process = subprocess.Popen([program, str(file)], stdout=self._log, stderr=subprocess.STDOUT)
        assert wait_until(self._answers, 30), (directory / "log").read_text()

    def _answers(self) -> bool:
        try:
            self.get("/system")
        except OSError:
            return False
        return True

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=30) as answer:
            body = answer.read()
        return json.loads(body) if answer.headers.get_content_type() == "application/json" else body

    def post(self, path: str, body: bytes) -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port}{path}", data=body, method="POST")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._log.close()
