"""Secrets as files: RADSTREAM_SECRETS_DIR, as containers, Kubernetes and systemd hand them over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from models.errors import ConfigurationError
from models.settings import Settings, load
from scp.settings import ScpSettings
from worker.settings import WorkerSettings


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "secrets"
    directory.mkdir()
    monkeypatch.setenv("RADSTREAM_SECRETS_DIR", str(directory))
    return directory


def test_a_file_gives_the_setting_of_its_name_without_the_line_end(secrets: Path) -> None:
    (secrets / "radstream_database_url").write_text("postgresql+psycopg://radstream:s3cret@db/radstream\n")
    assert load(Settings).sqlalchemy_url == "postgresql+psycopg://radstream:s3cret@db/radstream"


def test_the_name_may_be_in_capitals_as_the_variable_is(secrets: Path) -> None:
    (secrets / "RADSTREAM_PHI_KEY").write_text("k")
    key = load(Settings).phi_key
    assert key is not None
    assert key.get_secret_value() == "k"


def test_each_process_finds_its_own_and_ignores_those_of_others(secrets: Path) -> None:
    (secrets / "radstream_worker_destinations").write_text(
        json.dumps([{"name": "pacs", "host": "pacs", "port": 104, "ae_title": "PACS"}])
    )
    (secrets / "postgres_password").write_text("not a setting of ours")
    assert [to.name for to in load(WorkerSettings).destinations] == ["pacs"]
    assert load(ScpSettings).port == 11112
    assert load(Settings).ae_title == "RADSTREAM"


def test_a_variable_wins_over_a_file_and_a_file_over_the_toml_table(
    secrets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toml = tmp_path / "radstream.toml"
    toml.write_text('redis_url = "redis://toml"\nae_title = "OF_TOML"\n')
    monkeypatch.setenv("RADSTREAM_CONFIG", str(toml))
    (secrets / "radstream_redis_url").write_text("redis://file")
    (secrets / "radstream_database_url").write_text("sqlite:///file.db")
    monkeypatch.setenv("RADSTREAM_DATABASE_URL", "sqlite:///variable.db")
    settings = load(Settings)
    assert settings.redis_url.get_secret_value() == "redis://file"
    assert settings.sqlalchemy_url == "sqlite:///variable.db"
    assert settings.ae_title == "OF_TOML"


def test_the_links_of_a_kubernetes_volume_are_followed(secrets: Path) -> None:
    version = secrets / "..2026_01_01"
    version.mkdir()
    (version / "radstream_redis_url").write_text("redis://mounted")
    (secrets / "..data").symlink_to("..2026_01_01")
    (secrets / "radstream_redis_url").symlink_to("..data/radstream_redis_url")
    assert load(Settings).redis_url.get_secret_value() == "redis://mounted"


def test_a_misspelt_file_is_refused_with_the_name_that_was_meant(secrets: Path) -> None:
    (secrets / "radstream_databse_url").write_text("sqlite://")
    with pytest.raises(
        ConfigurationError, match=r"RADSTREAM_DATABSE_URL: no such setting; did you mean RADSTREAM_DATA"
    ):
        load(Settings)


def test_a_directory_that_is_not_there_is_named(secrets: Path) -> None:
    secrets.rmdir()
    with pytest.raises(ConfigurationError, match=r"RADSTREAM_SECRETS_DIR: cannot read .*secrets: No such file"):
        load(Settings)


def test_a_file_that_is_no_text_is_named_without_its_content(secrets: Path) -> None:
    (secrets / "radstream_redis_url").write_bytes(b"redis://\xff")
    with pytest.raises(ConfigurationError, match=r"RADSTREAM_SECRETS_DIR: .*radstream_redis_url is not UTF-8$"):
        load(Settings)
