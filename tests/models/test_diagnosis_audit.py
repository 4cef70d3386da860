"""What is asked of the audit trail, and of the settings themselves, each with a planted fault."""

from __future__ import annotations

import socket
import ssl
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "stand_ins"))

from certificates import self_signed

from deploy.launcher import free_port
from models.audit.settings import AuditSettings
from models.diagnosis.audit import check_audit
from models.diagnosis.checks import Finding, Severity
from models.diagnosis.settings import check_settings, read_settings
from models.settings import Settings


def _audit(**values: Any) -> list[Finding]:
    found = list(check_audit(AuditSettings(**values), 2))
    assert all(bool(each.remedy) == (each.severity in {Severity.WARNING, Severity.FAILURE}) for each in found)
    return found


def test_no_audit_trail_is_told_and_is_no_fault() -> None:
    assert [each.severity for each in _audit()] == [Severity.SKIPPED]


def test_a_repository_that_listens_and_one_that_does_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as repository:
        (found,) = _audit(repository=f"tcp://127.0.0.1:{repository.getsockname()[1]}")
    assert found.text.endswith("takes connections")
    (found,) = _audit(repository=f"tcp://127.0.0.1:{free_port()}")
    assert (found.severity, "RADSTREAM_AUDIT_REPOSITORY" in found.remedy) == (Severity.FAILURE, True)
    (found,) = _audit(repository="udp://no-such-host.invalid")
    assert found.text == "the name no-such-host.invalid is not known"


@pytest.mark.parametrize(("days", "severity", "said"), [(300.5, "ok", "good for 300 days"), (-1, "failure", "expired")])
def test_the_certificate_of_a_repository_is_looked_at(days: float, severity: str, said: str, tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path, "repository", days)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for _ in range(2):  # a connection, then one that shakes hands
                connection, _ = listener.accept()
                with connection:
                    try:
                        context.wrap_socket(connection, server_side=True).close()
                    except OSError:
                        continue

        server = threading.Thread(target=serve)
        server.start()
        (found,) = _audit(repository=f"tls://127.0.0.1:{listener.getsockname()[1]}", tls_ca=certificate)
        server.join(20)
    assert (found.severity, said in found.text) == (severity, True)


def test_an_audit_file_that_everybody_can_read_or_nobody_can_make(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    assert _audit(file=path)[0].text.endswith("will be made with the first message")
    path.touch(0o644)
    path.chmod(0o644)
    assert _audit(file=path)[0].remedy == f"chmod 600 {path}"
    assert "cannot be made" in _audit(file=tmp_path / "none" / "audit.log")[0].text


# Settings


def test_a_wrong_setting_is_a_finding_without_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADSTREAM_PHI", "hunter2")
    settings, wrong = read_settings(Settings)
    assert settings is None
    assert wrong is not None
    assert wrong.text.startswith("RADSTREAM_PHI: ")
    assert "hunter2" not in wrong.text + wrong.remedy
    assert list(check_settings(None, [wrong])) == [wrong]


def test_pseudonyms_without_a_key_are_a_failure() -> None:
    found = list(check_settings(Settings(phi="pseudonymised"), []))  # type: ignore[arg-type]
    assert found[-1].remedy.startswith("set RADSTREAM_PHI_KEY")


def test_secrets_that_everybody_can_read_are_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, directory = tmp_path / "radstream.toml", tmp_path / "secrets"
    config.write_text('ae_title = "FEED"\n')
    config.chmod(0o644)
    directory.mkdir()
    (directory / "radstream_phi_key").write_text("hunter2")
    (directory / "radstream_phi_key").chmod(0o644)
    monkeypatch.setenv("RADSTREAM_CONFIG", str(config))
    monkeypatch.setenv("RADSTREAM_SECRETS_DIR", str(directory))
    found = list(check_settings(Settings(), []))
    assert [(each.severity.value, each.remedy) for each in found] == [
        ("ok", ""),
        ("failure", f"chmod 600 {directory / 'radstream_phi_key'}"),
        ("ok", ""),
    ]
    config.write_text('phi_key = "hunter2"\n')
    assert next(each.remedy for each in check_settings(Settings(), [])) == f"chmod 600 {config}"
