"""One destination's origin server: outputs sent by STOW-RS (PS3.18 10.5), one object in a request.

The same interface as `worker.sender.Sender`, so that the queue of a destination need not know which way it has. The
file is streamed from the outbox as it lies there, and never read whole.
"""

from __future__ import annotations

import json
import os
import secrets
import ssl
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from models.errors import ConfigurationError, Reason
from models.identity import IMPLEMENTATION_VERSION_NAME
from models.records.base import utc_now
from models.telemetry import get_logger
from worker.sender import SendResult, judge
from worker.settings import StowDestination

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

log = get_logger("worker.stow_sender")

MAX_ANSWER_BYTES: Final = 1 << 20
CONNECT_TIMEOUT_S: Final = 10.0
BLOCK_BYTES: Final = 1 << 18

FAILED_SOP_SEQUENCE: Final = "00081198"
OTHER_FAILURES_SEQUENCE: Final = "0008119A"
FAILURE_REASON: Final = "00081197"
CANNOT_UNDERSTAND: Final = 0xC000

OK: Final = 200
ACCEPTED: Final = 202
UNAUTHORISED: Final = frozenset({401, 403, 407})
NOT_FOUND: Final = frozenset({301, 302, 303, 307, 308, 404, 405, 501})
"""What a wrong URL gives: nothing there, no POST there, or a redirect, which would take our credentials elsewhere."""
TOO_LARGE: Final = 413
LATER: Final = frozenset({408, 425, 429, 503})
GATEWAY: Final = frozenset({502, 504})


class StowSender:
    """Sends files to one origin server over a held connection. One thread at a time."""

    def __init__(self, destination: StowDestination, timeout_s: float) -> None:
        """Prepare, without connecting.

        Raises:
            ConfigurationError: a TLS or credentials file cannot be read.
        """
        from urllib3 import PoolManager, Retry, Timeout

        self.name = destination.name
        self._destination = destination
        tls = _tls(destination)
        self.tls_context: ssl.SSLContext | None = tls.get("ssl_context")
        self._url = f"{destination.url.rstrip('/')}/studies"
        silence_s = destination.timeout_s or timeout_s
        self._pool = PoolManager(
            num_pools=1,
            maxsize=1,
            retries=Retry(0, redirect=0, raise_on_redirect=False),
            timeout=Timeout(connect=min(silence_s, CONNECT_TIMEOUT_S), read=silence_s),
            **tls,
        )
        try:
            self._authorisation()
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"RADSTREAM_WORKER_DESTINATIONS: the credentials file of {self.name} cannot be read or is empty"
            ) from error

    def send(self, path: Path) -> SendResult:
        """Send one Part 10 file."""
        from urllib3.exceptions import HTTPError

        try:
            headers = self._authorisation()
        except (OSError, ValueError) as error:
            log.error("credentials_unreadable", destination=self.name, exc_info=error)
            return SendResult(reason=Reason.DESTINATION_UNAUTHORISED)
        try:
            with path.open("rb") as file:
                if not _is_part_ten(file):
                    log.error("output_unreadable", file_name=path.name)
                    return SendResult(reason=Reason.OUTPUT_FILE_MISSING, permanent=True)
                return self._post(file, headers)
        except FileNotFoundError:
            return SendResult(reason=Reason.OUTPUT_FILE_MISSING, permanent=True)
        except (HTTPError, OSError) as error:
            log.warning("send_failed", destination=self.name, exc_info=error)
            return SendResult(reason=Reason.DESTINATION_UNREACHABLE)

    def probe(self, method: str, query: str = "") -> tuple[int, str]:
        """Ask the service something that writes nothing.

        Args:
            method: of HTTP.
            query: with its question mark.

        Returns:
            The HTTP status and the methods that it says it allows.

        Raises:
            HTTPError, OSError, ValueError: it cannot be asked, or our credentials cannot be read.
        """
        answer = self._pool.request(
            method,
            self._url + query,
            headers={
                **self._authorisation(),
                "Accept": "application/dicom+json",
                "User-Agent": IMPLEMENTATION_VERSION_NAME,
            },
            preload_content=False,
            redirect=False,
        )
        try:
            return answer.status, answer.headers.get("Allow", answer.headers.get("Access-Control-Allow-Methods", ""))
        finally:
            # Not read: what a search finds, against expectation, is about patients.
            answer.close()

    def release_idle(self) -> None:
        """Nothing to do: an idle HTTP connection holds nothing at the peer, which closes it as it likes."""

    def release(self) -> None:
        """Close the connection."""
        self._pool.clear()

    def _post(self, file: BinaryIO, headers: dict[str, str]) -> SendResult:
        boundary = f"radstream-{secrets.token_hex(16)}"
        body = MultipartFile(file, boundary)
        answer = self._pool.request(
            "POST",
            self._url,
            body=body,
            headers={
                **headers,
                "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
                "Content-Length": str(body.length),
                "Accept": "application/dicom+json",
                "User-Agent": IMPLEMENTATION_VERSION_NAME,
            },
            preload_content=False,
            redirect=False,
        )
        try:
            return judge_answer(answer.status, _json(answer), _retry_after_s(answer.headers.get("Retry-After")))
        finally:
            answer.drain_conn()
            answer.release_conn()

    def _authorisation(self) -> dict[str, str]:
        from urllib3.util import make_headers

        to = self._destination
        if to.bearer_token_file is not None:
            return {"Authorization": f"Bearer {_secret(to.bearer_token_file)}"}
        if to.username is not None and to.password_file is not None:
            return dict(make_headers(basic_auth=f"{to.username}:{_secret(to.password_file)}"))
        return {}


class MultipartFile:
    """A multipart/related body of one part, given piece by piece; `length` in bytes is known beforehand."""

    def __init__(self, file: BinaryIO, boundary: str) -> None:
        self._file = file
        self._head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self.length = len(self._head) + os.fstat(file.fileno()).st_size + len(self._tail)

    def __iter__(self) -> Iterator[bytes]:
        """Give the pieces."""
        yield self._head
        while block := self._file.read(BLOCK_BYTES):
            yield block
        yield self._tail


def judge_answer(http_status: int, answer: dict[str, Any] | None, retry_after_s: float | None = None) -> SendResult:
    """Read the answer to a request with one object (PS3.18 10.5.3).

    The failure reason of the object, where the answer names one, says more than the HTTP status: 409 stands for any
    of them, and some servers answer 200 or 202 to an object that they did not keep.

    Args:
        http_status: of the answer.
        answer: its body as DICOM JSON, None when it is something else.
        retry_after_s: what the server asked us to wait.
    """
    failure = _failure(answer) if answer is not None and http_status not in UNAUTHORISED else None
    if failure is not None:
        result = judge(failure)
        return SendResult(result.status, result.reason, result.permanent, http_status, retry_after_s)
    if http_status in {OK, ACCEPTED}:
        return SendResult(http_status=http_status)
    if http_status in UNAUTHORISED:
        return SendResult(reason=Reason.DESTINATION_UNAUTHORISED, http_status=http_status)
    if http_status in NOT_FOUND:
        return SendResult(reason=Reason.DESTINATION_NOT_FOUND, http_status=http_status)
    if http_status in GATEWAY:
        return SendResult(reason=Reason.DESTINATION_UNREACHABLE, http_status=http_status, retry_after_s=retry_after_s)
    later = http_status in LATER or http_status >= 500
    return SendResult(
        reason=Reason.DESTINATION_REFUSED, permanent=not later, http_status=http_status, retry_after_s=retry_after_s
    )


def _failure(answer: dict[str, Any]) -> int | None:
    for sequence in (FAILED_SOP_SEQUENCE, OTHER_FAILURES_SEQUENCE):
        items = _values(answer, sequence)
        if items:
            reasons = _values(items[0], FAILURE_REASON)
            return reasons[0] if reasons and isinstance(reasons[0], int) else CANNOT_UNDERSTAND
    return None


def _values(item: Any, tag: str) -> list[Any]:
    element = item.get(tag) if isinstance(item, dict) else None
    values = element.get("Value") if isinstance(element, dict) else None
    return values if isinstance(values, list) else []


def _json(answer: BaseHTTPResponse) -> dict[str, Any] | None:
    """Read a body of DICOM JSON; a dataset, or a list of one as some servers give it."""
    body = answer.read(MAX_ANSWER_BYTES, decode_content=True)
    try:
        parsed = json.loads(body)
    except ValueError:
        return None
    if isinstance(parsed, list) and parsed:
        parsed = parsed[0]
    return parsed if isinstance(parsed, dict) else None


def _retry_after_s(value: str | None) -> float | None:
    """Read Retry-After: seconds or a date (RFC 9110 10.2.3); None when it is neither."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - utc_now()).total_seconds())
    except (ValueError, TypeError):
        return None


def _is_part_ten(file: BinaryIO) -> bool:
    start = file.read(132)
    file.seek(0)
    return start.endswith(b"DICM") and len(start) == 132


def _secret(path: Path) -> str:
    """Read a one-line secret.

    Raises:
        OSError, ValueError: it cannot be read, is empty, or has other than printable ASCII characters.
    """
    text = path.read_text(encoding="ascii").strip()
    if not text or not text.isprintable():
        raise ValueError("not one line of printable characters")
    return text


def _tls(destination: StowDestination) -> dict[str, Any]:
    if not destination.url.startswith("https:"):
        return {}
    try:
        context = ssl.create_default_context(cafile=destination.tls_ca)
        if destination.tls_certificate is not None:
            context.load_cert_chain(destination.tls_certificate, destination.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"RADSTREAM_WORKER_DESTINATIONS: TLS files of {destination.name} cannot be read"
        ) from error
    return {"ssl_context": context}
