"""The worker's own checks and the command: each planted fault is found, with its remedy and without a secret."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from PIL import ImageFont, features
from pydicom import uid

from models.diagnosis.checks import Finding, Severity
from models.errors import ConfigurationError
from models.pixels import decode
from models.settings import Settings
from models.store.store import ModelStore
from models.tasks import Task
from worker import caption
from worker.__main__ import main
from worker.doctor import engines as doctor_engines
from worker.doctor.codecs import check_codecs, check_fonts
from worker.doctor.command import parse_scp
from worker.doctor.engines import check_engines, check_gpu
from worker.doctor.images import FRAMES
from worker.doctor.limits import check_limits
from worker.settings import WorkerSettings

Run = Callable[..., subprocess.CompletedProcess[str]]
SECRETS = ("hunter2-redis", "hunter2-database", "hunter2-key-of-sixteen", "hunter2-token")


def _told(findings: Iterable[Finding]) -> dict[str, list[Finding]]:
    told: dict[str, list[Finding]] = {each.value: [] for each in Severity}
    for found in findings:
        assert bool(found.remedy) == (found.severity in {Severity.WARNING, Severity.FAILURE})
        told[found.severity].append(found)
    return told


# Codecs and fonts


def test_every_transfer_syntax_is_decoded_right() -> None:
    told = _told(check_codecs())
    assert [each.text for each in told["ok"]] == ["all 16 transfer syntaxes of the SCP are decoded to the right values"]


def test_a_missing_plugin_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jpeg_ls", None)
    (found,) = _told(check_codecs())["failure"]
    assert found.text == "codecs are missing or broken: pyjpegls"
    assert found.remedy == "pip install --force-reinstall pyjpegls"


def test_a_codec_that_gives_other_values_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    right = decode._pillow_jpeg_2000
    monkeypatch.setattr(decode, "_pillow_jpeg_2000", lambda frame, halvings: right(frame, halvings)[::-1])
    names = [each.text.partition(":")[0] for each in _told(check_codecs())["failure"]]
    assert names == [uid.UID(str(each)).name for each in decode.JPEG_2000_TRANSFER_SYNTAXES]


def test_a_codec_that_refuses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    bits, _ = FRAMES["RLELossless"]
    monkeypatch.setitem(FRAMES, "RLELossless", (bits, b"cut off"))
    (found,) = _told(check_codecs())["failure"]
    assert found.text == "RLE Lossless: is not decoded (undecodable_pixels)"


def test_the_type_of_overlays_has_every_sign() -> None:
    assert _told(check_fonts())["failure"] == []


@pytest.mark.parametrize("fault", ["no freetype", "no file", "bitmap", "lacks a sign"])
def test_a_missing_font_is_a_failure(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(size: int) -> Any:
        raise OSError("cannot open resource")

    if fault == "no freetype":
        monkeypatch.setattr(features, "check", lambda feature: False)
    elif fault == "no file":
        monkeypatch.setattr(caption, "font", absent)
    elif fault == "bitmap":
        monkeypatch.setattr(caption, "font", lambda size: ImageFont.load_default_imagefont())
    else:
        monkeypatch.setattr("worker.doctor.codecs.OVERLAY_SIGNS", "A° \u2603")
    (found,) = _told(check_fonts())["failure"]
    assert "pip install" in found.remedy


# Engines


@pytest.fixture
def store(tmp_path: Path, spine_version: Path) -> ModelStore:
    """A store of one task, whose version is active."""
    store = ModelStore(tmp_path / "store")
    published = store.publish(Task.LANDMARKS, spine_version)
    store.activate(Task.LANDMARKS, published.manifest.version)
    return store


def _engines(store: ModelStore, **own: Any) -> dict[str, list[Finding]]:
    return _told(check_engines(Settings(model_store=store.root), WorkerSettings(**own)))


def test_an_engine_that_serves_is_told_with_its_seconds(store: ModelStore) -> None:
    told = _engines(store)
    assert told["failure"] == []
    assert "(active): onnxruntime fp32 on cpu, 0." in told["ok"][0].text


def test_a_damaged_engine_file_is_a_failure(store: ModelStore) -> None:
    path = store.open(Task.LANDMARKS).network_path
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    (damaged, *_) = _engines(store)["failure"]
    assert "SHA-256" in damaged.text
    assert "python -m training rollback --task landmarks" in damaged.remedy


def test_an_empty_and_an_absent_store_are_failures(tmp_path: Path) -> None:
    (empty,) = _engines(ModelStore(tmp_path))["failure"]
    assert "no task has an active version" in empty.text
    (absent,) = _engines(ModelStore(tmp_path / "none"))["failure"]
    assert "RADSTREAM_MODEL_STORE" in absent.remedy


def test_an_engine_that_answers_no_numbers_is_a_failure(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    load = doctor_engines.engine_loader(WorkerSettings())

    class Broken:
        def __init__(self, engine: Any) -> None:
            self.manifest, self.info, self.close, self._run = engine.manifest, engine.info, engine.close, engine.run

        def run(self, image: Any) -> Any:
            return {name: values * float("nan") for name, values in self._run(image).items()}

    monkeypatch.setattr(doctor_engines, "engine_loader", lambda own: lambda version: Broken(load(version)))
    (found,) = _engines(store)["failure"]
    assert "answers no numbers" in found.text


def test_a_gpu_is_asked_for_only_where_the_provider_needs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda program: None)
    assert _told(check_gpu(WorkerSettings()))["skipped"][0].text == "onnxruntime needs no GPU"
    needed = _told(check_gpu(WorkerSettings(engine_provider="tensorrt_rtx")))["failure"][-1]
    assert "no NVIDIA driver is seen" in needed.text
    assert "--gpus all" in needed.remedy


def test_more_threads_than_cores_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("worker.doctor.limits.usable_cores", lambda: 2)
    own = WorkerSettings(engine_threads=8, decoders=2)
    (found,) = _told(check_limits(Settings(model_store=tmp_path), own))["warning"]
    assert found.remedy == "set RADSTREAM_WORKER_ENGINE_THREADS=2"


# The command


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("scp.hospital:104", "scp.hospital", 104),
        ("[::1]:11112", "::1", 11112),
        ('{"host": "scp", "port": 104}', "scp", 104),
    ],
)
def test_an_scp_is_named_by_host_and_port_or_by_json(text: str, host: str, port: int) -> None:
    scp = parse_scp(text, "FEED")
    assert (scp.host, scp.port, scp.ae_title) == (host, port, "FEED")


@pytest.mark.parametrize("text", ["scp", "scp:0", "scp:port", '{"host": "scp"}', "[1]"])
def test_an_scp_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--scp: HOST:PORT"):
        parse_scp(text, "FEED")


def test_nothing_secret_is_printed_and_a_file_of_secrets_open_to_all_is_found(run_python: Run, tmp_path: Path) -> None:
    config, token = tmp_path / "radstream.toml", tmp_path / "token"
    token.write_text(SECRETS[3])
    token.chmod(0o600)
    stow = {"name": "web", "url": "http://127.0.0.1:1/dicom-web", "bearer_token_file": str(token)}
    config.write_text(
        f'redis_url = "redis://user:{SECRETS[0]}@127.0.0.1:1/0"\n'
        f'database_url = "postgresql+psycopg://user:{SECRETS[1]}@127.0.0.1:1/x"\n'
        f'phi = "pseudonymised"\nphi_key = "{SECRETS[2]}"\ndata_dir = "{tmp_path}"\n'
    )
    config.chmod(0o644)
    env = {"RADSTREAM_CONFIG": str(config), "RADSTREAM_WORKER_DESTINATIONS": json.dumps([stow])}
    checks = ["--skip", "engines", "--skip", "codecs", "--format", "json", "--timeout", "2"]
    done = run_python("-m", "worker", "doctor", *checks, env=env)
    assert done.returncode == 1, done.stdout + done.stderr
    assert not any(secret in done.stdout + done.stderr for secret in SECRETS)
    assert done.stderr == ""
    failed = {
        (each["check"], each["subject"]): each
        for each in json.loads(done.stdout)["findings"]
        if each["severity"] == "failure"
    }
    assert set(failed) == {("settings", ""), ("redis", ""), ("database", ""), ("destination", "web")}
    assert failed["settings", ""]["remedy"] == f"chmod 600 {config}"
    assert failed["destination", "web"]["finding"] == "nothing listens on 127.0.0.1:1"


def test_a_wrong_setting_is_a_finding_and_status_two(run_python: Run) -> None:
    done = run_python("-m", "worker", "doctor", "--only", "disk", env={"RADSTREAM_WORKER_MAX_BATCH": SECRETS[0]})
    assert done.returncode == 2
    assert "✗ settings RADSTREAM_WORKER_MAX_BATCH" in done.stdout
    assert "settings are wrong, so it is not known what to look at" in done.stdout
    assert SECRETS[0] not in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--phantom"], "--phantom: say where"),
        (["--deliver"], "--deliver: goes with"),
        (["--scp", "x"], "--scp: HOST:PORT"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", *arguments]) == 2
    assert said in capsys.readouterr().err
