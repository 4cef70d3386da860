"""The SCP's doctor: its port, who may call, its certificates and tokens, each with a planted fault."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

sys.path.insert(0, str(Path(__file__).parents[1] / "stand_ins"))

from certificates import self_signed

from deploy.launcher import free_port
from models.diagnosis.checks import Check, Finding, Severity, run_checks
from models.settings import Settings
from scp.doctor_entry import check_callers, check_certificates, check_port, check_stow
from scp.settings import ScpSettings

Run = Callable[..., subprocess.CompletedProcess[str]]
TOKEN = "hunter2-hunter2-hunter2"


def _told(findings: Iterable[Finding]) -> dict[str, list[str]]:
    told: dict[str, list[str]] = {each.value: [] for each in Severity}
    for found in findings:
        assert bool(found.remedy) == (found.severity in {Severity.WARNING, Severity.FAILURE})
        assert TOKEN not in found.text + found.remedy
        told[found.severity].append(f"{found.text} -> {found.remedy}")
    return told


def _own(**values: Any) -> ScpSettings:
    return ScpSettings(**{"host": "127.0.0.1", **values})


# The port


def test_a_free_port_is_told() -> None:
    port = free_port()
    told = _told(check_port(Settings(), _own(port=port), 2))
    assert told["ok"] == [f"port {port} is free; the SCP does not run on this host -> "]


def test_a_running_scp_answers_as_ours_under_a_title_that_may_call(scp: Any) -> None:
    own = _own(port=scp.port, allowed_calling_ae_titles=["CR1", "CR2"], allowed_calling_addresses={"CR1": ["10.0.0.1"]})
    (answer,) = _told(check_port(Settings(), own, 5))["ok"]
    assert answer.startswith(f"RADSTREAM at 127.0.0.1:{scp.port} answers C-ECHO of CR2 in ")


def test_another_program_on_our_port_is_a_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        own = _own(port=other.getsockname()[1])
        assert "does not answer an association" in _told(check_port(Settings(), own, 0.2))["failure"][0]
    entity, port = AE(ae_title="RADSTREAM"), free_port()
    entity.add_supported_context(Verification)
    server = entity.start_server(("127.0.0.1", port), block=False)
    failed = _told(check_port(Settings(), _own(port=port), 5))["failure"]
    assert server is not None
    server.shutdown()
    assert "is another program, not radstream" in failed[0]


def test_an_address_that_is_not_ours_is_a_failure() -> None:
    # 192.0.2.0/24 is for documentation (RFC 5737), so no host has it.
    own = _own(host="192.0.2.1", port=free_port())
    assert "cannot listen on 192.0.2.1" in _told(check_port(Settings(), own, 0.2))["failure"][0]


# Who may call


def test_titles_that_one_list_names_and_another_shuts_out_are_told() -> None:
    own = _own(
        allowed_calling_ae_titles=["CR1", "cr1"],
        stat_ae_titles=["CR1", "ER"],
        allowed_calling_addresses={"CR9": ["10.0.0.9"]},
        commitment_peers={"CR8": {"host": "10.0.0.8", "port": 104}},
    )
    warned = _told(check_callers(Settings(own_ae_titles=("CR1",)), own))["warning"]
    assert [each.partition(" -> ")[0] for each in warned] == [
        "RADSTREAM_SCP_STAT_AE_TITLES names ER, which may not associate",
        "RADSTREAM_SCP_ALLOWED_CALLING_ADDRESSES names CR9, which may not associate",
        "RADSTREAM_SCP_COMMITMENT_PEERS names CR8, which may not associate",
        "two allowed AE titles differ only in capitals",
        "CR1 is in RADSTREAM_OWN_AE_TITLES, so that nothing it sends is ever analysed",
    ]


def test_an_scp_open_to_the_network_is_a_warning_and_to_this_host_is_none() -> None:
    assert (
        "anybody in the network may associate" in _told(check_callers(Settings(), _own(host="0.0.0.0")))["warning"][0]
    )
    assert _told(check_callers(Settings(), _own()))["warning"] == []


# Certificates and tokens


def _certificates(own: ScpSettings) -> dict[str, list[str]]:
    return _told(run_checks([Check("certificates", lambda: check_certificates(own))]))


def test_an_expired_certificate_and_an_open_key_are_failures(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path, "old", days=-9.5)
    key.chmod(0o644)
    failed = _certificates(_own(tls_certificate=certificate, tls_key=key))["failure"]
    assert [each.partition(" -> ")[0] for each in failed] == [
        f"certificate {certificate} expired 10 days ago",
        f"key {key} can be read by everybody on this host",
    ]


def test_a_key_of_another_certificate_is_a_failure(tmp_path: Path) -> None:
    certificate, _ = self_signed(tmp_path, "one", 100)
    _, key = self_signed(tmp_path, "two", 100)
    (failed,) = _certificates(_own(tls_certificate=certificate, tls_key=key))["failure"]
    assert failed.startswith("RADSTREAM_SCP_TLS_CERTIFICATE, RADSTREAM_SCP_TLS_KEY: ")


def test_tokens_that_everybody_can_read_or_hear_are_told(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"CR1 {TOKEN}\n")
    path.chmod(0o644)
    told = _told(check_stow(_own(stow_port=8080, stow_host="0.0.0.0", stow_tokens=path)))
    assert told["failure"] == [f"file of tokens {path} can be read by everybody on this host -> chmod 600 {path}"]
    assert "tokens of STOW-RS can be read on the way" in told["warning"][0]
    opened = _told(check_stow(_own(stow_port=8080, stow_host="0.0.0.0", stow_open=True)))
    assert "anybody in the network may send by STOW-RS" in opened["warning"][0]


# The command


def test_the_doctor_of_a_running_scp_finds_the_disk_full_and_redis_gone(scp: Any, run_python: Run) -> None:
    env = {
        "RADSTREAM_DATA_DIR": str(scp.directory),
        "RADSTREAM_REDIS_URL": f"redis://:{TOKEN}@127.0.0.1:1/0",
        "RADSTREAM_SCP_HOST": "127.0.0.1",
        "RADSTREAM_SCP_PORT": str(scp.port),
        "RADSTREAM_SCP_TELEMETRY_PORT": str(scp.telemetry_port),
        "RADSTREAM_SCP_MIN_FREE_BYTES": str(1 << 60),
    }
    done = run_python("-m", "scp", "doctor", "--format", "json", env=env)
    assert (done.returncode, done.stderr, TOKEN in done.stdout) == (1, "", False)
    findings = json.loads(done.stdout)["findings"]
    assert {each["check"] for each in findings if each["severity"] == "failure"} == {"disk", "redis", "database"}
    good = {each["check"]: each["finding"] for each in findings if each["severity"] == "ok"}
    assert good["port"].startswith(f"RADSTREAM at 127.0.0.1:{scp.port} answers C-ECHO")
    assert good["telemetry"] == f"scp runs and is ready (port {scp.telemetry_port})"


def test_a_wrong_setting_is_a_finding_and_status_two(run_python: Run) -> None:
    done = run_python("-m", "scp", "doctor", env={"RADSTREAM_SCP_PORT": TOKEN})
    assert (done.returncode, done.stderr, TOKEN in done.stdout) == (2, "", False)
    assert "✗ settings     RADSTREAM_SCP_PORT: " in done.stdout
