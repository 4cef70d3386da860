"""Settings: where values come from, and one clear line for each wrong one."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from models.errors import ConfigurationError
from models.records.sessions import open_database
from models.settings import PatientIdentity, Settings, load
from worker.settings import WorkerSettings
from worker.source import IdentityPolicy

SetToml = Callable[[str], None]


@pytest.fixture
def set_toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SetToml:
    def write(text: str) -> None:
        path = tmp_path / "radstream.toml"
        path.write_text(text, encoding="utf-8")
        monkeypatch.setenv("RADSTREAM_CONFIG", str(path))

    return write


def _complaint(settings_class: type[Settings] | type[WorkerSettings] = Settings, **overrides: object) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(settings_class, **overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_without_any_setting_everything_lies_below_one_directory() -> None:
    settings = load(Settings)
    assert settings.spool_path == Path("radstream-data/spool")
    assert settings.outbox_path == Path("radstream-data/outbox")
    assert settings.sqlalchemy_url == f"sqlite:///{Path('radstream-data/radstream.db').absolute()}"
    assert settings.ae_title == "RADSTREAM"
    assert settings.duplicate_policy == "keep_first"


def test_a_command_line_option_beats_the_environment_and_that_the_file_and_that_the_default(
    set_toml: SetToml, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load(Settings).ae_title == "RADSTREAM"
    set_toml('ae_title = "FROM_FILE"\nlog_level = "debug"')
    assert load(Settings).ae_title == "FROM_FILE"
    monkeypatch.setenv("RADSTREAM_AE_TITLE", "FROM_ENV")
    assert load(Settings).ae_title == "FROM_ENV"
    assert load(Settings, ae_title="FROM_OPTION").ae_title == "FROM_OPTION"
    assert load(Settings, ae_title=None).ae_title == "FROM_ENV", "None means that the option was not given"
    assert load(Settings).log_level == "debug", "one source does not hide the other settings of a weaker one"


def test_each_process_reads_its_own_table_and_prefix(set_toml: SetToml, monkeypatch: pytest.MonkeyPatch) -> None:
    set_toml(
        """
        ae_title = "SHARED"
        [scp]
        port = 11113
        [worker]
        max_batch = 3
        [[worker.destinations]]
        name = "archive"
        host = "pacs.example"
        port = 104
        ae_title = "PACS"
        """
    )
    monkeypatch.setenv("RADSTREAM_WORKER_MAX_DELAY_S", "0.5")
    own = load(WorkerSettings)
    assert load(Settings).ae_title == "SHARED"
    assert (own.max_batch, own.max_delay_s) == (3, 0.5)
    assert [(to.name, to.host, to.port, to.ae_title) for to in own.destinations] == [
        ("archive", "pacs.example", 104, "PACS")
    ]


def test_lists_and_tables_come_from_the_environment_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADSTREAM_OWN_AE_TITLES", '["AI_ONE", "AI_TWO"]')
    monkeypatch.setenv(
        "RADSTREAM_WORKER_DESTINATIONS", '[{"name": "a", "host": "h", "port": 104, "ae_title": "PACS", "tls": true}]'
    )
    assert load(Settings).own_ae_titles == ("AI_ONE", "AI_TWO")
    (destination,) = load(WorkerSettings).destinations
    assert destination.tls
    assert destination.calling_ae_title is None


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("RADSTREAM_LOG_LEVEL", "loud", "RADSTREAM_LOG_LEVEL: Input should be 'debug', 'info', 'warning' or 'error'"),
        ("RADSTREAM_PHI", "some", "RADSTREAM_PHI: Input should be 'full', 'pseudonymised' or 'none'"),
        (
            "RADSTREAM_AE_TITLE",
            "SEVENTEEN_LETTERS",
            "RADSTREAM_AE_TITLE: an AE title has 1 to 16 printable ASCII characters and no backslash",
        ),
        (
            "RADSTREAM_AE_TITLE",
            "BACK\\SLASH",
            "RADSTREAM_AE_TITLE: an AE title has 1 to 16 printable ASCII characters and no backslash",
        ),
        (
            "RADSTREAM_OWN_AE_TITLES",
            "ONE,TWO",
            'error parsing value for field "own_ae_titles" from source "EnvSettingsSource": '
            "lists and tables are given as JSON",
        ),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, expected: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert _complaint() == expected


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("MAX_BATCH", "0", "RADSTREAM_WORKER_MAX_BATCH: Input should be greater than or equal to 1"),
        ("MAX_BATCH", "many", "RADSTREAM_WORKER_MAX_BATCH: Input should be a valid integer"),
        ("TELEMETRY_PORT", "70000", "RADSTREAM_WORKER_TELEMETRY_PORT: Input should be less than or equal to 65535"),
        (
            "DESTINATIONS",
            '[{"name": "a", "host": "h", "port": 0, "ae_title": "P"}]',
            "RADSTREAM_WORKER_DESTINATIONS.0.PORT: Input should be greater than or equal to 1",
        ),
        (
            "DESTINATIONS",
            '[{"name": "a", "host": "h", "port": 1, "ae_title": "P"},'
            ' {"name": "a", "host": "i", "port": 1, "ae_title": "P"}]',
            "RADSTREAM_WORKER: two destinations have the same name",
        ),
        ("DESTINATIONS", '[{"name": "a"}]', "RADSTREAM_WORKER_DESTINATIONS.0.HOST: Field required"),
        (
            "JOB_HEARTBEAT_TTL_S",
            "6",
            "RADSTREAM_WORKER: job_heartbeat_ttl_s must be at least twice heartbeat_interval_s",
        ),
    ],
)
def test_a_wrong_worker_setting_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, expected: str
) -> None:
    monkeypatch.setenv(f"RADSTREAM_WORKER_{variable}", value)
    assert _complaint(WorkerSettings).startswith(expected)


def test_several_wrong_settings_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADSTREAM_PHI", "some")
    monkeypatch.setenv("RADSTREAM_LOG_LEVEL", "loud")
    monkeypatch.setenv("RADSTREAM_LOG_FORMAT", "xml")
    assert _complaint().endswith("(and 2 more wrong settings)")


@pytest.mark.parametrize(
    ("variable", "settings_class", "expected"),
    [
        ("RADSTREAM_REDIS_ULR", Settings, "RADSTREAM_REDIS_ULR: no such setting; did you mean RADSTREAM_REDIS_URL?"),
        (
            "RADSTREAM_WORKER_MAXBATCH",
            WorkerSettings,
            "RADSTREAM_WORKER_MAXBATCH: no such setting; did you mean RADSTREAM_WORKER_MAX_BATCH?",
        ),
        ("RADSTREAM_XYZZY_QUUX", Settings, "RADSTREAM_XYZZY_QUUX: no such setting"),
    ],
)
def test_an_unknown_variable_suggests_the_near_one(
    monkeypatch: pytest.MonkeyPatch, variable: str, settings_class: type[Settings], expected: str
) -> None:
    monkeypatch.setenv(variable, "1")
    assert _complaint(settings_class) == expected


def test_variables_of_the_other_processes_are_theirs_to_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADSTREAM_SCP_ANYTHING", "1")
    monkeypatch.setenv("RADSTREAM_TRAINING_ANYTHING", "1")
    monkeypatch.setenv("RADSTREAM_WORKER_MAX_BATCH", "2")
    load(Settings)
    assert load(WorkerSettings).max_batch == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ae_titel = 'X'", "RADSTREAM_AE_TITEL: no such setting; did you mean ae_title?"),
        ("ae_title = 'X", "RADSTREAM_CONFIG: "),
        ("log_level = 3", "RADSTREAM_LOG_LEVEL: Input should be 'debug', 'info', 'warning' or 'error'"),
    ],
)
def test_mistakes_in_the_file_are_one_line(set_toml: SetToml, text: str, expected: str) -> None:
    set_toml(text)
    assert _complaint().startswith(expected)


def test_a_table_that_is_a_value_is_one_line(set_toml: SetToml) -> None:
    set_toml("worker = 3")
    assert _complaint(WorkerSettings).endswith("worker must be a table")


def test_a_file_that_cannot_be_read_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RADSTREAM_CONFIG", str(tmp_path / "missing.toml"))
    expected = f"RADSTREAM_CONFIG: cannot read {tmp_path / 'missing.toml'}: No such file or directory"
    assert _complaint() == expected
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    monkeypatch.setenv("RADSTREAM_CONFIG", str(binary))
    assert _complaint().startswith(f"RADSTREAM_CONFIG: {binary} is not TOML")


def test_an_empty_variable_means_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADSTREAM_SPOOL_DIR", "")
    monkeypatch.setenv("RADSTREAM_DATABASE_URL", "")
    monkeypatch.setenv("RADSTREAM_CONFIG", "")
    settings = load(Settings)
    assert settings.spool_path == Path("radstream-data/spool")
    assert settings.sqlalchemy_url.startswith("sqlite:///")


def test_settings_cannot_be_changed_after_loading() -> None:
    settings = load(Settings)
    with pytest.raises(ValueError, match="frozen"):
        settings.ae_title = "OTHER"


SECRET = "s3cr3t-in-the-url"


@pytest.mark.parametrize("wrong", [{}, {"RADSTREAM_PHI": "some"}, {"RADSTREAM_WORKER_MAX_BATCH": "0"}])
def test_no_secret_is_ever_shown(monkeypatch: pytest.MonkeyPatch, wrong: dict[str, str]) -> None:
    monkeypatch.setenv("RADSTREAM_DATABASE_URL", f"postgresql+psycopg://me:{SECRET}@host/db")
    monkeypatch.setenv("RADSTREAM_REDIS_URL", f"redis://:{SECRET}@host:6379/0")
    monkeypatch.setenv("RADSTREAM_PHI_KEY", SECRET)
    for variable, value in wrong.items():
        monkeypatch.setenv(variable, value)
    shown = []
    for settings_class in (Settings, WorkerSettings):
        try:
            settings = load(settings_class)
            shown += [repr(settings), str(settings), settings.model_dump_json()]
        except ConfigurationError as error:
            shown.append(str(error))
    assert shown
    assert not [text for text in shown if SECRET in text]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("nonsense", "RADSTREAM_DATABASE_URL: not a database URL; use sqlite:///FILE or "),
        ("mysql://u:p@h/d", "RADSTREAM_DATABASE_URL: only sqlite and postgresql are supported"),
        ("oracle+nothing://h/d", "RADSTREAM_DATABASE_URL: not a database URL"),
        ("postgresql+psycopg2://h/d", "RADSTREAM_DATABASE_URL: driver psycopg2 is not installed"),
    ],
)
def test_a_wrong_database_url_is_one_line_without_the_url(url: str, expected: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_database(load(Settings, database_url=url))
    assert str(caught.value).startswith(expected)
    assert url not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pseudonymised_records_need_a_key() -> None:
    with pytest.raises(ConfigurationError, match=r"RADSTREAM_PHI_KEY: .* 16 characters"):
        IdentityPolicy.of(load(Settings, phi="pseudonymised"))
    with pytest.raises(ConfigurationError, match="RADSTREAM_PHI_KEY"):
        IdentityPolicy.of(load(Settings, phi="pseudonymised", phi_key="too short"))
    policy = IdentityPolicy.of(load(Settings, phi="pseudonymised", phi_key="sixteen letters!"))
    assert policy.mode is PatientIdentity.PSEUDONYMISED


@pytest.mark.parametrize(
    ("environment", "arguments", "expected"),
    [
        ({"RADSTREAM_WORKER_MAX_BATCH": "0"}, ["status"], "RADSTREAM_WORKER_MAX_BATCH"),
        ({"RADSTREAM_REDIS_ULR": "x"}, ["run"], "did you mean RADSTREAM_REDIS_URL?"),
        ({}, ["deliver"], "RADSTREAM_WORKER_DESTINATIONS: no destination is set"),
    ],
)
def test_a_process_with_a_wrong_setting_prints_one_line_and_exits_with_2(
    run_python: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
    environment: dict[str, str],
    arguments: list[str],
    expected: str,
) -> None:
    done = run_python("-m", "worker", *arguments, env={"RADSTREAM_DATA_DIR": str(tmp_path), **environment})
    assert done.returncode == 2
    assert done.stdout == ""
    assert expected in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("radstream: ")
