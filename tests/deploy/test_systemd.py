"""The systemd units: verified and rated by systemd itself, and bound to the commands and settings of the code."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scp.settings import ScpSettings
from tests.deploy.container_settings import DEPLOY, delivery_stop_s, load_all, scp_stop_s, seconds, worker_stop_s
from worker.__main__ import _parser as worker_parser
from worker.settings import WorkerSettings

UNITS = DEPLOY / "systemd"
SERVICES = sorted(path.name for path in UNITS.glob("*.service"))
STAYING = ("radstream-scp.service", "radstream-worker.service", "radstream-delivery.service")
SHARED = UNITS / "radstream-.service.d" / "10-radstream.conf"
EXPOSURE = 20
"""Tenths; systemd calls up to 49 OK, and an unhardened service has 92 to 98."""


class Unit(configparser.RawConfigParser):
    """A unit file: names keep their case, and of a repeated one the last counts here."""

    def __init__(self, *paths: Path) -> None:
        super().__init__(strict=False, interpolation=None, delimiters=("=",), comment_prefixes=("#",))
        self.read(paths, encoding="utf-8")

    def optionxform(self, optionstr: str) -> str:
        return optionstr


@pytest.fixture
def analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        reason = "systemd-analyze is missing: apt-get install systemd"
        if os.environ.get("CI"):
            pytest.fail(f"{reason} (CI is set, so this is a failure)")
        pytest.skip(reason)
    return found


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units as they lie on a host, with a Python that is there."""
    directory = tmp_path / "system"
    shutil.copytree(UNITS, directory)
    for path in directory.glob("*.service"):
        path.write_text(path.read_text().replace("/opt/radstream/bin/python", sys.executable))
    return directory


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": ""}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


def exposure(analyze: str, unit: Path) -> float:
    done = run(analyze, "security", "--offline=yes", f"--threshold={EXPOSURE}", unit)
    assert done.returncode == 0, done.stdout + done.stderr
    rating = re.search(r"Overall exposure level for \S+: (\d+\.\d)", done.stdout)
    assert rating is not None
    return float(rating[1])


def test_systemd_finds_nothing_wrong_with_the_units(analyze: str, installed: Path) -> None:
    units = [*installed.glob("*.service"), *installed.glob("*.timer")]
    assert len(units) == 8
    done = run(analyze, "verify", "--man=no", *units)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_hardened(name: str, analyze: str, installed: Path) -> None:
    assert exposure(analyze, installed / name) * 10 <= EXPOSURE


@pytest.mark.parametrize(
    ("name", "drop_in"), [("radstream-scp", "50-privileged-port.conf"), ("radstream-worker", "50-gpu.conf")]
)
def test_a_drop_in_opens_what_it_says_and_little_else(name: str, drop_in: str, analyze: str, installed: Path) -> None:
    before = exposure(analyze, installed / f"{name}.service")
    directory = installed / f"{name}.service.d"
    directory.mkdir()
    shutil.copy(UNITS / "drop-ins" / drop_in, directory)
    assert f"/etc/systemd/system/{name}.service.d/{drop_in}" in (directory / drop_in).read_text()
    done = run(analyze, "verify", "--man=no", installed / f"{name}.service")
    assert (done.returncode, done.stderr) == (0, "")
    after = exposure(analyze, installed / f"{name}.service")
    assert before < after <= before + 0.5  # it is read after the shared one, else nothing would change


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_runs_a_command_of_the_code(name: str) -> None:
    words = shlex.split(Unit(UNITS / name)["Service"]["ExecStart"])
    assert words[:2] == ["/opt/radstream/bin/python", "-m"]
    if words[2] == "scp":
        assert words[3:] == []
    else:
        assert words[2] == "worker"
        worker_parser().parse_args(words[3:])


def test_stops_last_longer_than_the_processes_need() -> None:
    worker = WorkerSettings()
    needed = {
        "radstream-scp.service": scp_stop_s(ScpSettings()),
        "radstream-worker.service": worker_stop_s(worker, with_delivery=False),
        "radstream-delivery.service": delivery_stop_s(worker),
    }
    assert set(needed) == set(STAYING)
    for name, longest_s in needed.items():
        assert seconds(Unit(UNITS / name)["Service"]["TimeoutStopSec"]) > longest_s


@pytest.mark.parametrize("name", STAYING)
def test_what_stays_is_started_again_for_ever(name: str) -> None:
    unit = Unit(UNITS / name)
    assert unit["Service"]["Restart"] == "always"
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"
    assert unit["Install"]["WantedBy"] == "multi-user.target"


def test_the_worker_waits_for_the_migration_and_the_scp_for_nobody() -> None:
    assert "radstream-migrate.service" in Unit(UNITS / "radstream-worker.service")["Unit"]["After"].split()
    assert Unit(UNITS / "radstream-migrate.service")["Service"]["Type"] == "oneshot"
    assert Unit(UNITS / "radstream-scp.service")["Unit"]["After"] == "network-online.target"


@pytest.mark.parametrize("timer", sorted(path.name for path in UNITS.glob("*.timer")))
def test_a_timer_starts_a_service_that_ends(timer: str, analyze: str) -> None:
    service = Unit(UNITS / Path(timer).with_suffix(".service").name)
    assert service["Service"]["Type"] == "oneshot"
    assert "Install" not in service
    unit = Unit(UNITS / timer)
    assert unit["Timer"]["Persistent"] == "true"  # what was missed while the host was off is done afterwards
    assert run(analyze, "calendar", unit["Timer"]["OnCalendar"]).returncode == 0


def test_the_example_and_the_secrets_are_settings_that_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = tmp_path / "credentials"
    secrets.mkdir()
    for name, value in _secrets():
        # LoadCredential of a directory names each credential by its id, "_" and the file.
        (secrets / f"radstream_{name}").write_text(value)
    settings, scp, worker = load_all(_environment_file(), monkeypatch, secrets)
    assert settings.sqlalchemy_url == "postgresql+psycopg://radstream:PASSWORD@127.0.0.1/radstream"
    assert settings.phi_key is not None
    assert scp.allowed_calling_ae_titles == ("CR1", "PACS")
    assert [to.name for to in worker.destinations] == ["pacs"]
    shared = Unit(SHARED)["Service"]
    assert shared["LoadCredential"] == "radstream:/etc/radstream/secrets"
    assert shared["EnvironmentFile"] == "/etc/radstream/radstream.env"
    assert "RADSTREAM_SECRETS_DIR=%d" in shared["Environment"].split()
    assert str(settings.data_dir) == shared["WorkingDirectory"] == f"/var/lib/{shared['StateDirectory']}"


def test_a_command_by_hand_gets_what_the_services_get(tmp_path: Path) -> None:
    stand_in = tmp_path / "systemd-run"
    stand_in.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    stand_in.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [UNITS / "radstream-run", "worker", "trace", "A 1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=True)
    given = done.stdout.splitlines()
    shared = Unit(SHARED)["Service"]
    for name in ("EnvironmentFile", "LoadCredential"):
        assert f"--property={name}={shared[name]}" in given
    assert {f"--uid={shared['User']}", f"--working-directory={shared['WorkingDirectory']}", "--pipe"} <= set(given)
    script = given[given.index("-c") + 1].replace(
        "/opt/radstream/bin/python", "printf '%s\\n' \"$RADSTREAM_SECRETS_DIR\""
    )
    credentials = {**environment, "CREDENTIALS_DIRECTORY": "/run/credentials/x"}
    shell = ["/bin/sh", "-c", script.replace("exec printf", "; printf"), *given[given.index("-c") + 2 :]]
    told = subprocess.run(shell, capture_output=True, text=True, timeout=60, env=credentials, check=True)
    assert told.stdout.splitlines() == ["/run/credentials/x", "-m", "worker", "trace", "A 1"]


def test_retention_at_night_does_more_than_preview() -> None:
    words = shlex.split(Unit(UNITS / "radstream-retain.service")["Service"]["ExecStart"])
    assert worker_parser().parse_args(words[3:]).yes
    words = shlex.split(Unit(UNITS / "radstream-reconcile.service")["Service"]["ExecStart"])
    assert worker_parser().parse_args(words[3:]).mend


def _environment_file() -> dict[str, str]:
    lines = (UNITS / "radstream.env.example").read_text().splitlines()
    return {
        name: shlex.split(value)[0]
        for name, _, value in (line.partition("=") for line in lines if line and not line.startswith("#"))
    }


def _secrets() -> Iterator[tuple[str, str]]:
    text = (UNITS / "radstream.env.example").read_text()
    found = re.findall(r"(?m)^#   (\w+)   +(.+)$", text)
    assert {name for name, _ in found} == {"database_url", "redis_url", "phi_key"}
    yield from found


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a directory to another user")
def test_user_and_directories_are_made_as_the_units_need_them(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    for tool, option in (("sysusers", "--inline"), ("tmpfiles", "--create")):
        command = shutil.which(f"systemd-{tool}")
        if command is None:
            pytest.skip(f"systemd-{tool} is missing: apt-get install systemd")
        configuration = UNITS / f"radstream.{tool}.conf"
        lines = [line for line in configuration.read_text().splitlines() if not line.startswith("#")]
        given = lines if option == "--inline" else [str(configuration)]
        done = run(command, f"--root={tmp_path}", option, *given)
        assert done.returncode == 0, done.stderr
    user = next(line for line in (tmp_path / "etc/passwd").read_text().splitlines() if line.startswith("radstream:"))
    assert user.endswith(":/var/lib/radstream:/usr/sbin/nologin")
    assert (tmp_path / "etc/radstream/secrets").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "var/lib/radstream").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "var/lib/radstream").stat().st_uid == int(user.split(":")[2])
