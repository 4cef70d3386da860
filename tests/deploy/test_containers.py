"""The container images: what their file says, checked by hadolint, by its own parse, and against the code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from dockerfile_parse import DockerfileParser
from packaging.requirements import Requirement

from deploy import constraints
from scp.settings import ScpSettings
from tests.deploy.container_settings import DEPLOY, ROOT, UID, load_all
from worker.settings import WorkerSettings

CONTAINERS = DEPLOY / "containers"
SERVED = ("scp", "worker", "worker-gpu", "training")
HEAVY = ("torch", "tensorrt", "matplotlib", "pytest", "lightning", "scipy")


@cache
def instructions() -> tuple[dict[str, Any], ...]:
    with (CONTAINERS / "Dockerfile").open("rb") as file:
        return tuple(DockerfileParser(fileobj=file).structure)


@cache
def stages() -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Name of each stage: what it is from, and its instructions."""
    found: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    current: list[tuple[str, str]] = []
    for line in instructions():
        name, value = line["instruction"], line["value"]
        if name == "FROM":
            base, stage = re.split(r"\s+AS\s+", value)
            current = []
            found[stage] = (base, current)
        else:
            current.append((name, value))
    return found


def lineage(stage: str) -> list[tuple[str, str]]:
    """Give the instructions of a stage and of those that it is from, oldest first."""
    base, own = stages()[stage]
    return [*(lineage(base) if base in stages() else []), *own]


def last(stage: str, instruction: str) -> str:
    return [value for name, value in lineage(stage) if name == instruction][-1]


def environment(stage: str) -> dict[str, str]:
    pairs = [value for name, value in lineage(stage) if name == "ENV"]
    return dict(re.findall(r"([A-Z0-9_]+)=(\S+)", " ".join(pairs)))


def argument(name: str) -> str:
    values = [line["value"] for line in instructions() if line["instruction"] == "ARG"]
    return next(value.partition("=")[2] for value in values if value.startswith(f"{name}="))


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, CONTAINERS / "Dockerfile"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_base_is_one_pinned_python_of_the_version_that_is_supported() -> None:
    bases = {base for base, _ in stages().values() if base not in stages()}
    assert bases == {"${PYTHON_IMAGE}"}
    assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm(@sha256:[0-9a-f]{64})?", argument("PYTHON_IMAGE"))


@pytest.mark.parametrize("stage", SERVED)
def test_an_image_runs_as_a_numeric_user_and_python_gets_its_signals(stage: str) -> None:
    assert last(stage, "USER") == f"{UID}:{UID}"
    assert last(stage, "STOPSIGNAL") == "SIGTERM"
    command = json.loads(last(stage, "ENTRYPOINT"))  # exec form: no shell between the signal and Python
    assert command == ["python", "-m", stage.removesuffix("-gpu")]
    assert environment(stage)["RADSTREAM_DATA_DIR"] == "/var/lib/radstream"
    assert environment(stage)["PYTHONDONTWRITEBYTECODE"] == "1"
    made = next(value for name, value in lineage(stage) if name == "RUN" and "useradd" in value)
    assert f"--uid {UID}" in made
    assert "/var/lib/radstream" in made


@pytest.mark.parametrize("stage", SERVED)
def test_an_image_says_what_it_is(stage: str) -> None:
    labels = " ".join(value for name, value in lineage(stage) if name == "LABEL")
    assert {"title", "description", "licenses", "version", "revision"} <= set(
        re.findall(r"org\.opencontainers\.image\.(\w+)=", labels)
    )
    version = re.search(r'(?m)^version = "(.+)"$', (ROOT / "pyproject.toml").read_text())
    assert version is not None
    assert argument("VERSION") == version[1]


@pytest.mark.parametrize("stage", SERVED)
def test_the_settings_of_an_image_are_known(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {name: value for name, value in environment(stage).items() if name.startswith("RADSTREAM_")}
    settings, scp, worker = load_all(given, monkeypatch)
    assert settings.data_dir == Path("/var/lib/radstream")
    if stage == "scp":
        assert scp.telemetry_address == "0.0.0.0"
    elif stage != "training":
        assert worker.telemetry_address == "0.0.0.0"
        assert worker.engine_provider == ("tensorrt" if stage == "worker-gpu" else "onnxruntime")


def test_ports_and_health_checks_are_those_of_the_settings() -> None:
    scp, worker = ScpSettings(), WorkerSettings()
    assert last("scp", "EXPOSE") == f"{scp.port} {scp.telemetry_port}"
    assert f"'127.0.0.1', {scp.telemetry_port}," in last("scp", "HEALTHCHECK")
    for stage in ("worker", "worker-gpu"):
        assert last(stage, "EXPOSE") == f"{worker.telemetry_port} {worker.delivery_telemetry_port}"
        assert f"'127.0.0.1', {worker.telemetry_port}," in last(stage, "HEALTHCHECK")


def test_what_is_copied_is_there_and_may_enter_the_build() -> None:
    sources = [
        source
        for _, own in stages().values()
        for name, value in own
        if name == "COPY" and not value.startswith("--from=")
        for source in value.split()[:-1]
    ]
    assert {"models/", "worker/", "scp/", "training/", "migrations/", "pyproject.toml"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert _enters(source.rstrip("/")), f"{source} is kept out by Dockerfile.dockerignore"
    copied = {value.split()[0] for _, own in stages().values() for name, value in own if name == "COPY"}
    froms = {source.removeprefix("--from=") for source in copied if source.startswith("--from=")}
    assert froms <= set(stages())


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".venv/bin/python",
        "tests/conftest.py",
        "deploy/demo.py",
        "deploy/compose/secrets/postgres_password",
        "radstream-data/radstream.db",
        "models/__pycache__/errors.cpython-311.pyc",
        "models/store/shipped/csi/.lock",
    ],
)
def test_no_file_of_a_developer_and_no_secret_enters_the_build(path: str) -> None:
    assert not _enters(path)


def _enters(path: str) -> bool:
    """Apply the patterns as BuildKit does: the last that matches the path or a parent of it decides."""
    entered = True
    parents = [path, *(str(parent) for parent in Path(path).parents if str(parent) != ".")]
    for line in (CONTAINERS / "Dockerfile.dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!")
        expression = re.escape(pattern).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        if any(re.fullmatch(expression, candidate) for candidate in parents):
            entered = line.startswith("!")
    return entered


def test_the_constraints_fit_the_project_and_are_complete() -> None:
    assert constraints.stale(constraints.read(constraints.SERVING), constraints.read(constraints.GPU)) == []


def test_constraints_that_lag_behind_the_project_are_named() -> None:
    pins = {**constraints.read(constraints.SERVING), "rq": "1.16.2"}
    del pins["h11"], pins["pydicom"]
    found = constraints.stale(pins, constraints.read(constraints.GPU))
    assert "rq==1.16.2 is outside of <3,>=2.12" in found
    assert "pydicom is not in the list" in found
    assert "h11 is needed and not in the list" in found  # of uvicorn, and not named in pyproject.toml


def test_serving_images_have_neither_torch_nor_tools_of_developers() -> None:
    pinned = {*constraints.read(constraints.SERVING), *constraints.read(constraints.GPU)}
    assert not pinned & set(HEAVY)
    installed = " ".join(value for name, value in lineage("serving") + lineage("serving-gpu") if name == "RUN")
    assert "training" not in installed
    assert "[dev]" not in installed


def test_tensorrt_is_pinned_within_the_range_of_the_project() -> None:
    wanted = {requirement.name: requirement for requirement in constraints.requirements(("tensorrt",))}["tensorrt"]
    assert isinstance(wanted, Requirement)
    assert wanted.specifier.contains(argument("TENSORRT_VERSION"))


def test_the_command_checks_without_writing(capsys: pytest.CaptureFixture[str]) -> None:
    before = constraints.SERVING.read_bytes()
    assert constraints.main(["--check"]) == 0
    assert capsys.readouterr().out == "the constraints fit pyproject.toml\n"
    assert constraints.SERVING.read_bytes() == before
