"""Settings that several processes read, and the one way in which any process loads its settings.

Values come from, strongest first: environment variables, the secret files in the directory ``RADSTREAM_SECRETS_DIR``
(one value each, named as the variable in either case: ``radstream_database_url``), the TOML file named by
``RADSTREAM_CONFIG``, defaults.
Shared settings have the prefix ``RADSTREAM_`` (top level of the file), the SCP's ``RADSTREAM_SCP_`` (table
``[scp]``), the worker's ``RADSTREAM_WORKER_`` (``[worker]``). A name that nobody knows is an error, not silence.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from models.errors import ConfigurationError

CONFIG_VARIABLE = "RADSTREAM_CONFIG"
SECRETS_VARIABLE = "RADSTREAM_SECRETS_DIR"
PROCESS_PREFIXES = (
    "RADSTREAM_SCP_",
    "RADSTREAM_WORKER_",
    "RADSTREAM_TRAINING_",
    "RADSTREAM_CSI_TRAINING_",
    "RADSTREAM_AUDIT_",
)
PROCESS_TABLES = frozenset({"scp", "worker", "training", "csi_training", "audit"})


def check_ae_title(title: str) -> str:
    """Give an AE title without padding.

    Raises:
        ValueError: it is none.
    """
    # PS3.5 section 6.2, VR AE: 1 to 16 characters, no backslash or control character, not only spaces.
    title = title.strip()
    if not 1 <= len(title) <= 16 or not title.isascii() or not title.isprintable() or "\\" in title:
        raise ValueError("an AE title has 1 to 16 printable ASCII characters and no backslash")
    return title


AETitle = Annotated[str, AfterValidator(check_ae_title)]


class PatientIdentity(StrEnum):
    """What of patient identity the results database stores."""

    FULL = "full"
    PSEUDONYMISED = "pseudonymised"
    NONE = "none"


class _TableSource(PydanticBaseSettingsSource):
    """Values of one table of the TOML file."""

    def __init__(self, settings_class: type[FileSettings]) -> None:
        super().__init__(settings_class)
        self._settings_class = settings_class

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return self._table().get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return self._table()

    def _table(self) -> dict[str, Any]:
        return self._settings_class.table()


class FileSettings(BaseSettings):
    """Settings read from the environment and from one table of the TOML file."""

    # An empty variable means not set, as in a compose file; "" as a path would be the working directory.
    model_config = SettingsConfigDict(extra="forbid", frozen=True, env_ignore_empty=True)
    table_name: ClassVar[str | None] = None

    @classmethod
    def table(cls) -> dict[str, Any]:
        """Give this class's table of the TOML file, empty when no file is named."""
        path = os.environ.get(CONFIG_VARIABLE)
        if not path:
            return {}
        try:
            document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigurationError(f"{CONFIG_VARIABLE}: cannot read {path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{CONFIG_VARIABLE}: {path} is not TOML: {error}") from error
        if cls.table_name is None:
            return {name: value for name, value in document.items() if name not in PROCESS_TABLES}
        table = document.get(cls.table_name, {})
        if not isinstance(table, dict):
            raise ConfigurationError(f"{path}: {cls.table_name} must be a table")
        return table

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put the secret files below the environment, and the TOML table below them."""
        secrets = SecretsSettingsSource(settings_cls, secrets_dir=os.environ.get(SECRETS_VARIABLE) or None)
        return init_settings, env_settings, secrets, _TableSource(cls)


class Settings(FileSettings):
    """What the SCP, the worker and the commands must agree on."""

    model_config = SettingsConfigDict(env_prefix="RADSTREAM_", extra="forbid", frozen=True)

    data_dir: Path = Field(Path("radstream-data"), description="Parent of the default spool, outbox and database.")
    spool_dir: Path | None = Field(None, description="The spool; default <data_dir>/spool.")
    spool_archive_days: float = Field(
        0, ge=0, le=3650, description="How long finished instances are kept for `backfill`; 0 keeps none."
    )
    spool_archive_max_gb: float = Field(
        100, gt=0, description="Most that is kept of them, 10^9 bytes; the oldest go first."
    )
    outbox_dir: Path | None = Field(None, description="Outputs waiting for delivery; default <data_dir>/outbox.")
    object_store: str | None = Field(
        None,
        pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9._-]+)*/?$",
        description="Bucket, s3://bucket/prefix, that holds spool and outbox for every host; unset, local directories.",
    )
    object_store_endpoint: str | None = Field(
        None, pattern=r"^https?://[^/\s]+/?$", description="http(s)://host:port of its S3 API; unset, AWS."
    )
    object_store_region: str = Field("us-east-1", description="Region of the bucket.")
    object_store_access_key_id: str | None = Field(
        None, description="Access key of the bucket; unset, the credentials that the cloud gives to the host."
    )
    object_store_secret_access_key: SecretStr | None = Field(None, description="Secret key to it.")
    object_store_cache_gb: float = Field(
        2.0,
        ge=0.05,
        description="Most that one host keeps of its objects under spool_dir and outbox_dir, each, 10^9 bytes.",
    )
    database_url: SecretStr | None = Field(
        None,
        description="SQLAlchemy URL; default SQLite in <data_dir>. PostgreSQL: postgresql+psycopg://user:pass@host/db",
    )
    redis_url: SecretStr = Field(SecretStr("redis://127.0.0.1:6379/0"), description="Redis that carries the queues.")
    model_store: Path = Field(
        Path(__file__).parent / "store" / "shipped", description="Model store; default the shipped one."
    )
    ae_title: AETitle = Field("RADSTREAM", description="Our AE title, called by senders and calling destinations.")
    own_ae_titles: tuple[AETitle, ...] = Field(
        (), description="AE titles whose objects are always our own outputs (loop guard), beside the content check."
    )
    phi: PatientIdentity = Field(PatientIdentity.FULL, description="What of patient identity the database stores.")
    phi_key: SecretStr | None = Field(None, description="Secret key of the hash when phi is pseudonymised.")
    duplicate_policy: Literal["keep_first", "replace"] = Field(
        "keep_first", description="Same SOP Instance UID with other bytes: keep the first result, or infer again."
    )
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"

    @model_validator(mode="after")
    def _object_store_is_whole(self) -> Settings:
        if (self.object_store_access_key_id is None) != (self.object_store_secret_access_key is None):
            raise ValueError("set RADSTREAM_OBJECT_STORE_ACCESS_KEY_ID and _SECRET_ACCESS_KEY both, or none of them")
        if self.object_store_endpoint is not None and self.object_store is None:
            raise ValueError(
                "RADSTREAM_OBJECT_STORE_ENDPOINT is set, and RADSTREAM_OBJECT_STORE=s3://bucket/prefix is not"
            )
        return self

    @property
    def spool_path(self) -> Path:
        """Directory of the spool."""
        return self.spool_dir or self.data_dir / "spool"

    @property
    def outbox_path(self) -> Path:
        """Directory of outputs that wait for delivery."""
        return self.outbox_dir or self.data_dir / "outbox"

    @property
    def sqlalchemy_url(self) -> str:
        """SQLAlchemy URL of the results database."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{(self.data_dir / 'radstream.db').absolute()}"


S = TypeVar("S", bound=FileSettings)


def load(settings_class: type[S], **overrides: Any) -> S:
    """Read settings; `overrides` are command-line options and win over everything (None means not given).

    Raises:
        ConfigurationError: one line that names the setting and says what is wrong with it.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    prefix = str(settings_class.model_config.get("env_prefix", "RADSTREAM_"))
    _refuse_unknown_variables(settings_class, prefix)
    try:
        return settings_class(**given)
    except ValidationError as error:
        raise ConfigurationError(_one_line(error, prefix, settings_class)) from None
    except SettingsError as error:
        # Raised for a complex value that is not JSON; the message names the field.
        raise ConfigurationError(f"{error}: lists and tables are given as JSON") from None


def _refuse_unknown_variables(settings_class: type[FileSettings], prefix: str) -> None:
    known = {prefix + name.upper() for name in settings_class.model_fields} | {CONFIG_VARIABLE, SECRETS_VARIABLE}
    other_prefixes = tuple(other for other in PROCESS_PREFIXES if other != prefix)
    for variable in sorted([*os.environ, *_secret_names()]):
        if not variable.startswith(prefix) or variable.startswith(other_prefixes) or variable in known:
            continue
        # Compared without the prefix, which would make any two names alike.
        bare = {name.removeprefix(prefix): name for name in known}
        near = difflib.get_close_matches(variable.removeprefix(prefix), bare, n=1)
        hint = f"; did you mean {bare[near[0]]}?" if near else ""
        raise ConfigurationError(f"{variable}: no such setting{hint}")


def _secret_names() -> list[str]:
    """Give the secret files as names of variables.

    Raises:
        ConfigurationError: the directory or a file in it cannot be read.
    """
    directory = os.environ.get(SECRETS_VARIABLE)
    if not directory:
        return []
    try:
        files = [path for path in Path(directory).iterdir() if path.name.upper().startswith("RADSTREAM_")]
        for path in files:
            path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{SECRETS_VARIABLE}: cannot read {error.filename}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigurationError(f"{SECRETS_VARIABLE}: {path} is not UTF-8") from None
    return [path.name.upper() for path in files]


def _one_line(error: ValidationError, prefix: str, settings_class: type[FileSettings]) -> str:
    first = error.errors(include_input=False, include_url=False)[0]
    # A tag in brackets says which kind of several was meant, which is no part of the name.
    name = ".".join(str(part) for part in first["loc"] if not str(part).startswith("<"))
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, settings_class.model_fields, n=1)
        message = "no such setting" + (f"; did you mean {near[0]}?" if near else "")
    more = error.error_count() - 1
    # A rule over several settings has no name; its message names them.
    where = f"{prefix}{name.upper()}" if name else prefix.rstrip("_")
    return f"{where}: {message}" + (f" (and {more} more wrong settings)" if more else "")
