"""Who may send by STOW-RS: bearer tokens and the names that stand for calling AE titles.

The file has one client in a line, name and token with spaces between; ``#`` begins a comment. It is read again when
it changes, so that a token can be replaced without a restart.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
from pathlib import Path
from typing import Final

from models.errors import ConfigurationError
from models.settings import check_ae_title
from models.telemetry import get_logger

ANYBODY: Final = "STOW-RS"
"""The name of clients where no token is asked for."""
MIN_TOKEN_LENGTH: Final = 16
SETTING: Final = "RADSTREAM_SCP_STOW_TOKENS"

log = get_logger("scp.stow.clients")


class Clients:
    """Recognises clients by the Authorization header. Safe for threads.

    Args:
        path: the file of tokens; None lets anybody in.

    Raises:
        ConfigurationError: the file cannot be read or has a line that is not name and token.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._changed_at = 0
        self._digests: dict[str, bytes] = {}
        if path is not None:
            self._changed_at = path.stat().st_mtime_ns if path.exists() else 0
            self._digests = _read(path)

    def identify(self, authorisation: str | None) -> str | None:
        """Give the name of the client; None when the header names none."""
        if self._path is None:
            return ANYBODY
        self._reread()
        scheme, _, token = (authorisation or "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        digest = _digest(token.strip())
        found: str | None = None
        for name, known in self._digests.items():
            # Every token is compared, each in constant time: how long this takes says nothing about them.
            if hmac.compare_digest(digest, known):
                found = name
        return found

    def _reread(self) -> None:
        if self._path is None:
            return
        with self._lock:
            try:
                changed_at = self._path.stat().st_mtime_ns
                if changed_at == self._changed_at:
                    return
                self._changed_at = changed_at
                self._digests = _read(self._path)
            except (OSError, ConfigurationError) as error:
                # Those who had a token keep it until the file can be read again.
                log.error("tokens_unreadable", exc_info=error)


def _read(path: Path) -> dict[str, bytes]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{SETTING}: {path} cannot be read") from error
    digests: dict[str, bytes] = {}
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 2 or len(words[1]) < MIN_TOKEN_LENGTH or words[0] in digests:
            raise ConfigurationError(
                f"{SETTING}: line {number} of {path} must be a name of its own and a token of at least "
                f"{MIN_TOKEN_LENGTH} characters"
            )
        try:
            digests[check_ae_title(words[0])] = _digest(words[1])
        except ValueError as error:
            raise ConfigurationError(f"{SETTING}: line {number} of {path}: the name must be an AE title") from error
    if not digests:
        raise ConfigurationError(f"{SETTING}: {path} names no client")
    return digests


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
