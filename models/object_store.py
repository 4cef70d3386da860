"""A bucket on an S3 API: the few operations that spool, outbox and reports need, and one error for all that fails.

Every request has a limit of time and few retries, so that a network that is cut off is an error within `REQUEST_S`
and a little, never a hang. An object is there, whole, when `put_file` or `put_bytes` returns; whatever happens before
leaves none, or the one that was there.
"""

from __future__ import annotations

import io
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from models.errors import ConfigurationError, ObjectStoreUnavailable
from models.settings import Settings

CONNECT_S: Final = 3.0
"""For a connection."""
REQUEST_S: Final = 15.0
"""For a whole request; a large file is many of them."""
RETRIES: Final = 2
RETRY_WITHIN_S: Final = 8.0
"""No retry begins later than this: a request that ran into its limit is not tried again here."""
LIST_PAGE: Final = 1000
READ_BYTES: Final = 1 << 16
"""What reading a part of an object asks for at once; a header is shorter."""

Observe = Callable[[str, float], None]
"""Is told the name of each operation and its seconds."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object: its key below our prefix, length in bytes and POSIX time, by the clock of the store."""

    key: str
    size: int
    modified_at: float


class ObjectStore:
    """A bucket, or what lies below a prefix of it. Safe for threads; not for processes forked after its first use.

    Every method raises `ObjectStoreUnavailable` when the bucket cannot be reached or refuses us, and a method that
    reads one object `FileNotFoundError` when there is none.

    Raises:
        ConfigurationError: from the constructor; the library is not installed, or the endpoint is no URL.
    """

    def __init__(
        self,
        url: str,
        *,
        endpoint: str | None = None,
        region: str = "us-east-1",
        keys: tuple[str, str] | None = None,
        observe: Observe | None = None,
    ) -> None:
        try:
            import obstore
            from obstore.exceptions import BaseError
            from obstore.store import S3Store
        except ImportError as error:
            raise ConfigurationError(
                "RADSTREAM_OBJECT_STORE: needs the extra `s3`: pip install radstream[s3]"
            ) from error
        self.url = url.rstrip("/")
        bucket, _, prefix = self.url.removeprefix("s3://").partition("/")
        config: dict[str, Any] = {"region": region}
        if endpoint is not None:
            config["endpoint"] = endpoint.rstrip("/")
        if keys is not None:
            config["access_key_id"], config["secret_access_key"] = keys
        try:
            self._store: Any = S3Store(
                bucket,
                prefix=prefix or None,
                client_options={
                    "allow_http": endpoint is not None and endpoint.startswith("http://"),
                    "connect_timeout": timedelta(seconds=CONNECT_S),
                    "timeout": timedelta(seconds=REQUEST_S),
                },
                retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_WITHIN_S)},
                **config,
            )
        except BaseError as error:
            raise ConfigurationError(f"RADSTREAM_OBJECT_STORE: {self.url} cannot be used: {_told(error)}") from error
        self._api: Any = obstore
        self._base_error: type[Exception] = BaseError
        self.observe = observe

    @classmethod
    def of(cls, settings: Settings, observe: Observe | None = None) -> ObjectStore | None:
        """Give the bucket of the settings; None where there is none.

        Raises:
            ConfigurationError: see the class.
        """
        if settings.object_store is None:
            return None
        secret, keys = settings.object_store_secret_access_key, None
        if secret is not None and settings.object_store_access_key_id is not None:
            keys = settings.object_store_access_key_id, secret.get_secret_value()
        return cls(
            settings.object_store,
            endpoint=settings.object_store_endpoint,
            region=settings.object_store_region,
            keys=keys,
            observe=observe,
        )

    def url_of(self, key: str) -> str:
        """Give the URL of an object, for people."""
        return f"{self.url}/{key}"

    # Writing

    def put_file(self, key: str, path: Path) -> None:
        """Store the content of a local file.

        Raises:
            FileNotFoundError: there is no such file.
        """
        path.stat()
        with self._request("put"):
            self._api.put(self._store, key, path)

    def put_bytes(self, key: str, content: bytes) -> None:
        """Store some bytes."""
        with self._request("put"):
            self._api.put(self._store, key, content)

    def delete(self, *keys: str) -> None:
        """Remove objects; one that is not there is no error."""
        with self._request("delete"), suppress(FileNotFoundError):
            self._api.delete(self._store, keys[0] if len(keys) == 1 else list(keys))

    def move(self, source: str, target: str) -> bool:
        """Give an object another key; False when there is none.

        Whoever is killed in between leaves it under both, never under neither.
        """
        try:
            with self._request("copy"):
                self._api.copy(self._store, source, target)
        except FileNotFoundError:
            return False
        self.delete(source)
        return True

    # Reading

    def get_file(self, key: str, path: Path) -> None:
        """Write an object to a local file, which appears whole or not at all.

        Raises:
            OSError: the file cannot be written.
        """
        part = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
        try:
            with part.open("wb") as file, self._request("get"):
                for chunk in self._api.get(self._store, key).stream():
                    file.write(chunk)
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def get_bytes(self, key: str) -> bytes:
        """Give the content of an object."""
        with self._request("get"):
            return bytes(self._api.get(self._store, key).bytes())

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Give up to `length` bytes from `start` on, which must lie within the object."""
        with self._request("get"):
            return bytes(self._api.get_range(self._store, key, start=start, length=length))

    def open(self, key: str) -> BinaryIO:
        """Open an object for reading parts of it."""
        return cast(BinaryIO, io.BufferedReader(_Reader(self, key, self.stat(key).size), READ_BYTES))

    def stat(self, key: str) -> ObjectInfo:
        """Tell size and time of an object."""
        with self._request("head"):
            return _info(self._api.head(self._store, key))

    def exists(self, key: str) -> bool:
        """Tell whether there is such an object."""
        try:
            self.stat(key)
        except FileNotFoundError:
            self.check()  # the answer to HEAD does not tell a missing bucket from a missing object
            return False
        return True

    def objects(self, directory: str) -> Iterator[ObjectInfo]:
        """List the objects below a directory, in no order."""
        with self._request("list"):
            pages = iter(self._api.list(self._store, directory, chunk_size=LIST_PAGE))
        while True:
            # By hand: what the caller does with an object must not count, nor be taken for a failure of ours.
            with self._request("list"):
                page = next(pages, None)
            if page is None:
                return
            yield from map(_info, page)

    def directories(self, directory: str) -> list[str]:
        """List the directories in a directory, by name."""
        with self._request("list"):
            prefixes = self._api.list_with_delimiter(self._store, directory)["common_prefixes"]
        return [str(prefix).rstrip("/").rpartition("/")[2] for prefix in prefixes]

    def check(self) -> None:
        """Ask the bucket for anything at all."""
        with self._request("list"):
            next(iter(self._api.list(self._store, "radstream-check", chunk_size=1)), None)

    @contextmanager
    def _request(self, operation: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        except FileNotFoundError as error:
            # A bucket that is gone must not look like an object that is: instances would fail for good.
            if operation != "put" and "NoSuchBucket" not in str(error):
                raise
            raise self._unavailable(operation, error) from error
        except (self._base_error, PermissionError, TimeoutError, ConnectionError) as error:
            raise self._unavailable(operation, error) from error
        finally:
            if self.observe is not None:
                self.observe(operation, time.perf_counter() - began)

    def _unavailable(self, operation: str, error: Exception) -> ObjectStoreUnavailable:
        hint = "see that RADSTREAM_OBJECT_STORE, its ENDPOINT and its keys are right and the host reaches it"
        return ObjectStoreUnavailable(detail=f"{operation} on {self.url}: {_told(error)}; {hint}")


class _Reader(io.RawIOBase):
    """Reads parts of an object as they are asked for."""

    def __init__(self, store: ObjectStore, key: str, size: int) -> None:
        self._store, self._key, self._size, self._position = store, key, size, 0
        self.name = key  # pydicom asks every file for one

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self._size - self._position)
        if length <= 0:
            return 0
        content = self._store.get_range(self._key, self._position, length)
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)


def _info(told: Any) -> ObjectInfo:
    return ObjectInfo(str(told["path"]), int(told["size"]), told["last_modified"].timestamp())


def _told(error: Exception) -> str:
    """Give the first line of what the library says: the request and its answer, never a key or secret of ours."""
    return str(error).partition("\n")[0][:300]
