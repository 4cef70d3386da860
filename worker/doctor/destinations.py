"""Whether every destination answers, by its own TLS settings and under the AE title by which we call it.

Nothing is written anywhere: C-ECHO and presentation contexts by DICOM, OPTIONS and a search that finds nothing by
DICOMweb.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pydicom.uid import (
    Comprehensive3DSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    ParametricMapStorage,
    SecondaryCaptureImageStorage,
)
from pynetdicom.sop_class import StorageCommitmentPushModel  # type: ignore[attr-defined]

from models.diagnosis.checks import Check, Finding, failure, ok, skipped, warning
from models.diagnosis.host import check_private
from models.diagnosis.peers import Peer, check_certificate, check_connection, check_handshake, check_peer
from models.records.outputs import OutputKind
from models.settings import Settings
from worker.phantom import KEPT
from worker.sender import tls_arguments
from worker.settings import AnyDestination, RemoteEntity, StowDestination, WorkerSettings
from worker.stow_sender import NOT_FOUND, UNAUTHORISED, StowSender

SETTING: Final = "RADSTREAM_WORKER_DESTINATIONS"
NAME: Final = "destination"
STORAGE_CLASSES: Final = {
    OutputKind.SECONDARY_CAPTURE: ("Secondary Capture", SecondaryCaptureImageStorage),
    OutputKind.STRUCTURED_REPORT: ("Comprehensive 3D SR", Comprehensive3DSRStorage),
    OutputKind.PARAMETRIC_MAP: ("Parametric Map", ParametricMapStorage),
    OutputKind.PRESENTATION_STATE: ("Grayscale Softcopy Presentation State", GrayscaleSoftcopyPresentationStateStorage),
    OutputKind.STUDY_SUMMARY: ("Comprehensive 3D SR", Comprehensive3DSRStorage),
}
NO_STUDY: Final = f"{KEPT}0"
"""A Study Instance UID that no study has, so that a search for it gives no patient."""


def checks_of_destinations(settings: Settings, own: WorkerSettings, timeout_s: float) -> list[Check]:
    """Give one check for each destination, and one for the PACS that `backfill` fetches from."""
    if not own.destinations:
        return [Check(NAME, lambda: [skipped(f"no destination is set ({SETTING}): no outputs are made")])]
    checks = []
    deadline_s = 6 * timeout_s
    for to in own.destinations:
        run = partial(_destination, to, settings, timeout_s)
        checks.append(Check(NAME, run, subject=to.name, deadline_s=deadline_s))
    if own.backfill_source is not None:
        where = "RADSTREAM_WORKER_BACKFILL_SOURCE"
        run = partial(check_entity, own.backfill_source, settings, where, timeout_s, {})
        checks.append(Check(NAME, run, subject="backfill source", deadline_s=deadline_s))
    return checks


def _destination(to: AnyDestination, settings: Settings, timeout_s: float) -> Iterator[Finding]:
    if isinstance(to, StowDestination):
        yield from _stow(to, timeout_s)
        return
    wanted = dict(STORAGE_CLASSES[kind] for kind in to.outputs)
    if to.not_analysed:
        wanted.update([STORAGE_CLASSES[OutputKind.STRUCTURED_REPORT]])
    if to.commitment:
        wanted["Storage Commitment"] = StorageCommitmentPushModel
    if to.ae_title == settings.ae_title:
        yield warning(
            f"it has our own AE title {to.ae_title}: outputs may come back to us",
            f"correct ae_title of {to.name} in {SETTING}, unless another system has the same title",
        )
    yield from check_entity(
        to, settings, f"{SETTING} ({to.name})", timeout_s, {name: str(uid) for name, uid in wanted.items()}
    )


def check_entity(
    entity: RemoteEntity,
    settings: Settings,
    where: str,
    timeout_s: float,
    storage_classes: dict[str, str],
    calling_ae_title: str | None = None,
    expected_implementation: str | None = None,
) -> Iterator[Finding]:
    """Ask an application entity, and look at our certificate for it.

    Args:
        entity: as set.
        settings: for our AE title.
        where: the setting that names it.
        timeout_s: of each step.
        storage_classes: that it should take, by name.
        calling_ae_title: where the entity names none; None for our own.
        expected_implementation: implementation class UID, None for any.
    """
    for path in (entity.tls_certificate, entity.tls_ca) if entity.tls else ():
        if path is not None:
            yield from check_certificate(path, "certificate", where)
    yield from _private_key(entity.tls_key)
    tls = tls_arguments(entity, f"{where}: TLS files").get("tls_args")
    peer = Peer(
        host=entity.host,
        port=entity.port,
        ae_title=entity.ae_title,
        calling_ae_title=entity.calling_ae_title or calling_ae_title or settings.ae_title,
        settings=where,
        tls=tls[0] if tls else None,
        storage_classes=storage_classes,
        expected_implementation=expected_implementation,
    )
    yield from check_peer(peer, timeout_s)


def _private_key(path: Path | None) -> Iterator[Finding]:
    if path is not None:
        yield from check_private(path, "key")


# DICOMweb


def _stow(to: StowDestination, timeout_s: float) -> Iterator[Finding]:
    where = f"{SETTING} ({to.name})"
    for secret in (to.bearer_token_file, to.password_file, to.tls_key):
        if secret is not None:
            yield from check_private(secret, "credentials file" if secret != to.tls_key else "key")
    for path in (to.tls_certificate, to.tls_ca):
        if path is not None:
            yield from check_certificate(path, "certificate", where)
    with ExitStack() as stack:
        sender = StowSender(to, timeout_s)
        stack.callback(sender.release)
        parts = urlsplit(to.url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        unreachable = check_connection(host, port, where, timeout_s)
        if unreachable is not None:
            yield unreachable
            return
        context = sender.tls_context
        if context is not None:
            failed = check_handshake(host, port, context, where, timeout_s)
            yield from failed
            if any(finding.severity == "failure" for finding in failed):
                return
        yield _asked(sender, to, where)


def _asked(sender: StowSender, to: StowDestination, where: str) -> Finding:
    from urllib3.exceptions import HTTPError

    service = f"{urlsplit(to.url).netloc}{urlsplit(to.url).path.rstrip('/')}/studies"
    statuses = []
    try:
        for method, query in (("OPTIONS", ""), ("GET", f"?StudyInstanceUID={NO_STUDY}&limit=1")):
            status, allowed = sender.probe(method, query)
            statuses.append(status)
            if status in UNAUTHORISED:
                return failure(
                    f"{service} does not accept our credentials (HTTP {status})",
                    f"renew the token or password in its file, or give one in {where}",
                )
            if status in {200, 204}:
                told = f", and takes {allowed}" if "POST" in allowed else ""
                return ok(f"{service} answers (HTTP {status}{told})")
    except (HTTPError, OSError) as error:
        return failure(
            f"{service} gives no HTTP answer ({type(error).__name__})", f"see its log, or correct url in {where}"
        )
    if all(status in NOT_FOUND and status != 405 for status in statuses):
        return failure(f"there is no such service as {service} (HTTP {statuses[-1]})", f"correct url in {where}")
    if max(statuses) >= 500:
        return failure(f"{service} answers HTTP {max(statuses)}", "see its log; wait if it is just starting")
    return ok(f"{service} is there (HTTP {statuses[-1]}); whether it takes our outputs is told only by sending")
