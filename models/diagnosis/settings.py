"""Reading settings for the `doctor` of every process: a wrong one is a finding, and the rest is looked at."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import SecretStr

from models.diagnosis.checks import Finding, failure, ok
from models.diagnosis.host import check_private
from models.errors import ConfigurationError
from models.settings import CONFIG_VARIABLE, SECRETS_VARIABLE, FileSettings, PatientIdentity, Settings, load

SHORTEST_KEY: Final = 16

S = TypeVar("S", bound=FileSettings)


def read_settings(settings_class: type[S], **overrides: Any) -> tuple[S | None, Finding | None]:
    """Give settings, or the finding that says which one is wrong."""
    try:
        return load(settings_class, **overrides), None
    except ConfigurationError as error:
        return None, failure(str(error), "correct the setting that this names, in the environment or in the TOML file")


def check_settings(settings: Settings | None, wrong: list[Finding]) -> Iterator[Finding]:
    """Tell wrong settings, secrets that everybody can read, and what is better not left as it is shipped.

    Args:
        settings: the shared ones, None where they are wrong.
        wrong: what was found while reading them.
    """
    yield from wrong
    yield from _config_file()
    yield from _secret_files()
    if settings is None:
        return
    if not wrong:
        shipped = ", the shipped one" if settings.ae_title == Settings.model_fields["ae_title"].default else ""
        yield ok(f"settings are readable; our AE title is {settings.ae_title}{shipped}")
    key = settings.phi_key.get_secret_value() if settings.phi_key is not None else ""
    if settings.phi is PatientIdentity.PSEUDONYMISED and len(key) < SHORTEST_KEY:
        yield failure(
            "RADSTREAM_PHI is pseudonymised, and there is no key of 16 characters",
            "set RADSTREAM_PHI_KEY (openssl rand -hex 32), and keep it with the backup",
        )


def _config_file() -> Iterator[Finding]:
    name = os.environ.get(CONFIG_VARIABLE)
    if not name or not (path := Path(name)).is_file():
        return  # absent: what was found while reading says so
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    secrets = [name for name, field in Settings.model_fields.items() if _is_secret(field.annotation)]
    if any(name in document for name in secrets):
        yield from check_private(path, "settings file")
    else:
        yield ok(f"settings file {path} holds no secret")


def _is_secret(annotation: Any) -> bool:
    return annotation is SecretStr or annotation == SecretStr | None


def _secret_files() -> Iterator[Finding]:
    name = os.environ.get(SECRETS_VARIABLE)
    if not name or not Path(name).is_dir():
        return
    for path in sorted(Path(name).iterdir()):
        if path.name.upper().startswith("RADSTREAM_"):
            yield from check_private(path, "secret file")
