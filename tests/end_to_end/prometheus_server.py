"""A real Prometheus with the configuration of `deploy/prometheus`, of which a test changes targets and times alone."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from deploy.launcher import free_port, wait_until

SHIPPED = Path(__file__).parents[2] / "deploy" / "prometheus"


@dataclass(frozen=True)
class Times:
    """Between scrapes and evaluations, and how much sooner than shipped an alert fires."""

    scrape: str = "1s"
    alert_for: str = "1s"


def adapted(directory: Path, targets: dict[str, int], port: int, times: Times) -> Path:
    """Write the shipped configuration with targets on loopback; every job of it must be named."""
    configuration = yaml.safe_load((SHIPPED / "prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": times.scrape, "scrape_timeout": "1s", "evaluation_interval": "1s"}
    del configuration["alerting"]  # there is no Alertmanager; the rules are evaluated all the same
    everywhere = {**targets, "prometheus": port}
    for job in configuration["scrape_configs"]:
        job.pop("dns_sd_configs", None)
        job["static_configs"] = [{"targets": [f"127.0.0.1:{everywhere[job['job_name']]}"]}]
    for name in configuration["rule_files"]:
        rules = yaml.safe_load((SHIPPED / name).read_text())
        for group in rules["groups"]:
            group.pop("interval", None)  # some are evaluated seldom
            for rule in group["rules"]:
                rule |= {"for": times.alert_for} if "for" in rule else {}
        (directory / name).write_text(json.dumps(rules))  # JSON is YAML
    path = directory / "prometheus.yml"
    path.write_text(json.dumps(configuration))
    return path


class Prometheus:
    """The server, and its HTTP API."""

    def __init__(
        self, program: str, directory: Path, targets: dict[str, int], times: Times | None = None, port: int = 0
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.port = port or free_port()
        self._log = directory / "prometheus.log"
        options = {
            "config.file": adapted(directory, targets, self.port, times or Times()),
            "storage.tsdb.path": directory / "data",
            "web.listen-address": f"127.0.0.1:{self.port}",
        }
        self._command = [program, *(f"--{name}={value}" for name, value in options.items())]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=subprocess.STDOUT)
        assert wait_until(self._ready, 60), self._log.read_text()[-2000:]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(30)

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def ask(self, what: str, **parameters: str) -> Any:
        """Give `data` of an answer of the API; one that is an error fails the test with its words."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{what} {parameters}: {error.read().decode()}") from None

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Evaluate an expression now."""
        found: list[dict[str, Any]] = self.ask("query", query=expression)["result"]
        return found
