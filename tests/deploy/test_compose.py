"""The compose files: the schema of the specification, the project's own rules, and the settings of each service."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from scp.settings import ScpSettings
from tests.deploy.container_settings import (
    DEPLOY,
    child_stop_s,
    delivery_stop_s,
    load_all,
    scp_stop_s,
    seconds,
    worker_stop_s,
)
from tests.deploy.test_containers import stages
from worker.settings import Destination, WorkerSettings

COMPOSE = DEPLOY / "compose"
FILES = ("compose.yaml", "compose.gpu.yaml", "compose.s3.yaml")
OWN = ("scp", "worker", "migrate")
PUBLISHED_TO_ALL = {"scp"}
INTERPOLATION = re.compile(r"\$\{(\w+)(?:(:?-)([^}]*))?\}")
Services = dict[str, dict[str, Any]]


def example_variables() -> dict[str, str]:
    lines = (COMPOSE / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def interpolate(text: str, variables: dict[str, str]) -> str:
    """Replace ``${NAME}``, ``${NAME-default}`` and ``${NAME:-default}`` as compose does."""

    def value(found: re.Match[str]) -> str:
        name, operator, default = found.groups()
        given = variables.get(name)
        if given is None or (operator == ":-" and not given):
            return default or ""
        return given

    return INTERPOLATION.sub(value, text).replace("$$", "$")


@cache
def compose(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((COMPOSE / name).read_text())
    return document


def services(*overrides: str) -> Services:
    """Give the services of compose.yaml with the overrides laid over them, as compose does."""
    merged: Services = compose("compose.yaml")["services"]
    for override in overrides:
        merged = laid_over(merged, compose(override)["services"])
    return merged


def laid_over(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Merge tables, put the secrets of both together, and let everything else replace."""
    merged = dict(under)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(under.get(key), dict):
            merged[key] = laid_over(under[key], value)
        else:
            merged[key] = [*under[key], *value] if key == "secrets" and key in under else value
    return merged


def environment(service: dict[str, Any], variables: dict[str, str]) -> dict[str, str]:
    return {name: interpolate(str(value), variables) for name, value in service.get("environment", {}).items()}


@pytest.fixture(scope="session")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The secrets that make-secrets.sh makes."""
    directory = tmp_path_factory.mktemp("compose")
    shutil.copy(COMPOSE / "make-secrets.sh", directory)
    subprocess.run([directory / "make-secrets.sh"], check=True, capture_output=True, timeout=60)
    return directory / "secrets"


def mounted(service: dict[str, Any], secrets: Path, target: Path) -> Path:
    """Give a service's /run/secrets."""
    target.mkdir()
    for name in service["secrets"]:
        shutil.copy(secrets / name, target)
    return target


def test_each_file_fits_the_schema_of_the_specification() -> None:
    check = Path(sys.executable).with_name("check-jsonschema")
    files = [str(COMPOSE / name) for name in FILES]
    command = [str(check), "--builtin-schema", "vendor.compose-spec", *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("overrides", [(), ("compose.s3.yaml",), ("compose.gpu.yaml",)], ids=["base", "s3", "gpu"])
@pytest.mark.parametrize("name", OWN)
def test_a_service_starts_with_exactly_the_settings_and_secrets_that_it_gets(
    name: str, overrides: tuple[str, ...], secrets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = services(*overrides)[name]
    given = environment(service, example_variables())
    assert given.pop("RADSTREAM_SECRETS_DIR") == "/run/secrets"
    settings, scp, worker = load_all(given, monkeypatch, mounted(service, secrets, tmp_path / "run"))
    password = (secrets / "postgres_password").read_text().strip()
    assert settings.sqlalchemy_url == f"postgresql+psycopg://radstream:{password}@postgres:5432/radstream"
    conf = (secrets / "redis_conf").read_text().split()
    assert settings.redis_url.get_secret_value() == f"redis://:{conf[1]}@redis:6379/0"
    assert settings.phi_key is not None
    if "compose.s3.yaml" in overrides:
        assert settings.object_store == "s3://radstream/feed"
        assert settings.object_store_endpoint == "http://objects:9000"
        assert settings.object_store_secret_access_key is not None
    (pacs,) = worker.destinations if name != "scp" else (None,)
    if name == "scp":
        assert scp.telemetry_address == "0.0.0.0"
    else:
        assert isinstance(pacs, Destination)
        orthanc = services()["orthanc"]["environment"]
        assert (pacs.host, str(pacs.port), pacs.ae_title) == (
            "orthanc",
            orthanc["ORTHANC__DICOM_PORT"],
            orthanc["ORTHANC__DICOM_AET"],
        )


def test_it_starts_without_an_env_file_too(secrets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OWN:
        service = services()[name]
        given = {**environment(service, {}), "RADSTREAM_SECRETS_DIR": ""}
        load_all(given, monkeypatch, mounted(service, secrets, tmp_path / name))


def test_every_variable_of_the_files_is_explained_in_the_example() -> None:
    text = "".join((COMPOSE / name).read_text() for name in FILES)
    used = {found[1] for found in INTERPOLATION.finditer(text)}
    assert used == set(example_variables()) - {"COMPOSE_PROFILES"}


def test_no_secret_is_a_variable() -> None:
    for name, service in services(*FILES[1:]).items():
        for variable in service.get("environment", {}):
            secret = re.search(r"PASSWORD|SECRET_ACCESS|DATABASE_URL|REDIS_URL|PHI_KEY|ACCESS_KEY_ID|USER$", variable)
            assert not secret or variable.endswith("FILE") or variable == "POSTGRES_USER", (name, variable)


def test_made_secrets_stay_as_they_are_and_only_their_owner_may_enter(secrets: Path) -> None:
    before = {path.name: path.read_bytes() for path in secrets.iterdir()}
    subprocess.run([secrets.parent / "make-secrets.sh"], check=True, capture_output=True, timeout=60)
    assert {path.name: path.read_bytes() for path in secrets.iterdir()} == before
    assert secrets.stat().st_mode & 0o777 == 0o700
    declared = {**compose("compose.yaml")["secrets"], **compose("compose.s3.yaml")["secrets"]}
    assert set(declared) == set(before)
    assert all(secret["file"] == f"./secrets/{name}" for name, secret in declared.items())
    assert json.loads(before["orthanc_users"])["RegisteredUsers"]["radstream"]


@pytest.mark.parametrize("name", sorted(services(*FILES[1:])))
def test_a_service_is_pinned_and_may_do_nothing_that_it_need_not(name: str) -> None:
    service = services(*FILES[1:])[name]
    image = interpolate(service["image"], example_variables())
    assert re.search(r":[^:/]*\d+[.-]\d+[^:/]*$", image), image
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged")
    assert service.get("read_only") or name == "orthanc"  # its start script writes its configuration
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:") or name in PUBLISHED_TO_ALL, f"{name} is open to other hosts by {port}"
    if "command" in service and name in {*OWN, "redis", "postgres"}:
        assert service["deploy"]["resources"]["limits"]["memory"]


def test_what_stays_up_is_started_again_and_says_how_it_is() -> None:
    # Orthanc's image has no client to ask with, and the training container is started by hand.
    for name, service in services(*FILES[1:]).items():
        if name in {"migrate", "model-store", "bucket"}:
            assert service["restart"].startswith("on-failure"), name
        elif name != "training":
            assert service["restart"] == "unless-stopped", name
            assert name == "orthanc" or service["healthcheck"]["test"], name


def test_stops_last_longer_than_the_processes_need() -> None:
    every, scp, worker = services(), ScpSettings(), WorkerSettings()
    assert seconds(every["scp"]["stop_grace_period"]) > scp_stop_s(scp)
    assert seconds(every["worker"]["stop_grace_period"]) > worker_stop_s(worker, with_delivery=True)
    assert delivery_stop_s(worker) < child_stop_s()


def test_ports_are_those_that_the_processes_listen_on() -> None:
    every, scp, worker = services(), ScpSettings(), WorkerSettings()
    assert [port.rsplit(":", 1)[1] for port in every["scp"]["ports"]] == [str(scp.port)]
    assert [port.rsplit(":", 1)[1] for port in every["worker"]["ports"]] == [str(worker.telemetry_port)]
    assert f"'127.0.0.1', {scp.telemetry_port}," in every["scp"]["healthcheck"]["test"][3]
    assert f"'127.0.0.1', {worker.telemetry_port}," in every["worker"]["healthcheck"]["test"][3]
    modalities = json.loads(interpolate(every["orthanc"]["environment"]["ORTHANC__DICOM_MODALITIES"], {}))
    assert modalities["radstream"] == ["RADSTREAM", "scp", scp.port]


def test_built_targets_and_mounted_files_exist() -> None:
    for name, service in services(*FILES[1:]).items():
        if "build" in service:
            assert service["build"]["target"] in stages(), name
            assert (COMPOSE / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        for volume in service.get("volumes", []):
            source = interpolate(volume, example_variables()).split(":")[0]
            if source.startswith(".") and name != "training":
                assert (COMPOSE / source).exists(), (name, volume)


def test_redis_keeps_what_it_was_given_and_evicts_nothing() -> None:
    command = services()["redis"]["command"]
    options = dict(zip(command[2::2], command[3::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"


def test_prometheus_finds_every_target_by_the_name_of_a_service() -> None:
    scraping = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    targets = [
        target for job in scraping["scrape_configs"] for s in job.get("static_configs", ()) for target in s["targets"]
    ]
    names = [name for job in scraping["scrape_configs"] for s in job.get("dns_sd_configs", ()) for name in s["names"]]
    alerting = [t for a in scraping["alerting"]["alertmanagers"] for s in a["static_configs"] for t in s["targets"]]
    every = services()
    for target in [*targets, *names, *alerting]:
        host = target.split(":")[0]
        if host != "localhost":
            assert set(every[host]["networks"]) & set(every["prometheus"]["networks"]), host
    datasource = yaml.safe_load((COMPOSE / "grafana" / "datasource.yml").read_text())["datasources"][0]
    assert datasource["url"] == "http://prometheus:9090"
    assert set(every["grafana"]["networks"]) & set(every["prometheus"]["networks"]) >= {"watch"}


def test_the_dashboards_lie_where_grafana_looks() -> None:
    provider = yaml.safe_load((COMPOSE / "grafana" / "dashboards.yml").read_text())["providers"][0]
    volumes = [volume.split(":") for volume in services()["grafana"]["volumes"]]
    source = next(volume[0] for volume in volumes if volume[1] == provider["options"]["path"])
    home = services()["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (COMPOSE / source / Path(home).name).is_file()
    assert {path.stem for path in (COMPOSE / source).glob("*.json")} >= {"feed", "engines", "delivery", "drift"}


def test_alertmanager_takes_its_configuration_and_routes_every_severity() -> None:
    amtool = shutil.which("amtool")
    if amtool is None:
        reason = "amtool is missing: apt-get install prometheus-alertmanager"
        if os.environ.get("CI"):
            pytest.fail(f"{reason} (CI is set, so this is a failure)")
        pytest.skip(reason)
    config = COMPOSE / "alertmanager.yml"
    subprocess.run([amtool, "check-config", str(config)], check=True, capture_output=True, timeout=60)
    for severity, receiver in {"critical": "on-duty-now", "warning": "on-duty", "info": "nobody"}.items():
        command = [amtool, "config", "routes", "test", f"--config.file={config}", f"severity={severity}"]
        told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
        assert told.stdout.strip() == receiver


def test_the_model_store_of_the_gpu_host_keeps_what_was_promoted(tmp_path: Path) -> None:
    script = services("compose.gpu.yaml")["model-store"]["entrypoint"][2]
    store = tmp_path / "models"
    active = store / "csi" / "active.json"
    active.parent.mkdir(parents=True)
    active.write_text("promoted here")
    script = script.replace("/var/lib/radstream/models", str(store))
    subprocess.run([sys.executable, "-c", script], check=True, cwd=DEPLOY.parent, timeout=60)
    assert active.read_text() == "promoted here"
    assert (store / "pneumonia" / "active.json").is_file()
    assert (store / "pneumonia" / "2.0.0" / "network.onnx").stat().st_size > 1_000_000
    assert not list(store.rglob("*.part"))
