"""The parent's part of storage commitment: finds out what can be committed to, and reports on new associations.

Two threads, so that a peer that does not answer holds up no verdict. Both work off files, so a restart goes on where
the last process ended.
"""

from __future__ import annotations

import ssl
import threading
import time
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter
from pydicom.uid import UID
from pynetdicom import AE, build_role
from pynetdicom.association import Association

from models.errors import ConfigurationError
from models.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from models.requestor import without_delay, without_races
from models.telemetry import get_logger
from scp.commitment_messages import PUSH_MODEL, PUSH_MODEL_INSTANCE, ServiceStatus, event_type, report_dataset
from scp.commitment_transactions import HeldTransaction, TransactionFolder, Verdict
from scp.contexts import COMMITMENT_TRANSFER_SYNTAXES
from scp.custody import Custody
from scp.settings import CommitmentPeer, ScpSettings

JUDGE_INTERVAL_S: Final = 0.25
REPORT_INTERVAL_S: Final = 0.5
CONNECT_TIMEOUT_S: Final = 10.0
UNJUDGED_REST_S: Final = 2.0

log = get_logger("scp.commitment_reporter")


@dataclass(slots=True)
class _Attempts:
    count: int = 0
    due_at: float = 0.0


class CommitmentReporter:
    """Works off the transactions until stopped.

    Raises:
        ConfigurationError: from the constructor, the TLS files of a peer cannot be read.
    """

    def __init__(
        self,
        folder: TransactionFolder,
        custody: Custody,
        ae_title: str,
        settings: ScpSettings,
        registry: CollectorRegistry,
    ) -> None:
        self._folder = folder
        self._custody = custody
        self._settings = settings
        self._ae = AE(ae_title)
        self._ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        self._ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        self._ae.add_requested_context(PUSH_MODEL, list(COMMITMENT_TRANSFER_SYNTAXES))
        self._ae.connection_timeout = CONNECT_TIMEOUT_S
        self._ae.acse_timeout = settings.acse_timeout_s
        self._ae.dimse_timeout = self._ae.network_timeout = settings.dimse_timeout_s
        self._tls = {title: _tls(title, peer) for title, peer in settings.commitment_peers.items()}
        self._attempts: dict[str, _Attempts] = {}
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=[self.judge, JUDGE_INTERVAL_S], name="custody", daemon=True),
            threading.Thread(target=self._repeat, args=[self.report, REPORT_INTERVAL_S], name="reports", daemon=True),
        ]
        self._reports = Counter(
            "radstream_scp_commitment_reports",
            "Reports on new associations, by outcome (reported, retry, dropped).",
            ["outcome"],
            registry=registry,
        )

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_s: float) -> None:
        """End after the report in hand."""
        self._stopping.set()
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def judge(self) -> None:
        """Find out what to report on each transaction, where that is not known yet."""
        for key in self._folder.keys():  # noqa: SIM118 - a method of ours, not of a dict
            if self._stopping.is_set():
                return
            if self._folder.verdict(key) is not None:
                continue
            transaction = self._folder.read(key)
            verdict = self._custody.judge(transaction.references) if transaction is not None else None
            if verdict is not None:
                self._folder.decide(key, verdict)
            elif transaction is not None:
                self._stopping.wait(UNJUDGED_REST_S)  # the database is away

    def report(self) -> None:
        """Report on the transactions whose association is gone, one association for each peer."""
        keys = self._folder.keys()
        for gone in set(self._attempts) - set(keys):
            del self._attempts[gone]
        by_peer: dict[str, list[tuple[HeldTransaction, Verdict]]] = {}
        now = time.monotonic()
        try:
            for key in keys:
                if self._attempts.setdefault(key, _Attempts()).due_at > now:
                    continue
                verdict = self._folder.verdict(key)
                held = self._folder.hold(key) if verdict is not None else None
                if held is not None and verdict is not None:
                    by_peer.setdefault(held.transaction.calling_ae_title, []).append((held, verdict))
            for title, reports in by_peer.items():
                if not self._stopping.is_set():
                    self._report_to(title, reports)
        finally:
            for reports in by_peer.values():
                for held, _ in reports:
                    held.release()

    def _report_to(self, title: str, reports: list[tuple[HeldTransaction, Verdict]]) -> None:
        peer = self._settings.commitment_peers.get(title)
        association = self._associate(title, peer) if peer is not None else None
        try:
            for held, verdict in reports:
                if association is not None and self._send(association, held, verdict):
                    self._reports.labels(outcome="reported").inc()
                    log.info("commitment_reported", calling_ae_title=title, association="new")
                    held.done()
                else:
                    self._put_off(held, "unreachable" if peer is not None else "no address in commitment_peers")
        finally:
            if association is not None and association.is_established:
                association.release()

    def _associate(self, title: str, peer: CommitmentPeer) -> Association | None:
        association = self._ae.associate(
            peer.host,
            peer.port,
            ae_title=title,
            # We are the SCP of the service though we open the association (PS3.4 J.3.3, PS3.7 D.3.3.4).
            ext_neg=[build_role(UID(PUSH_MODEL), scu_role=False, scp_role=True)],
            evt_handlers=without_delay(),
            **self._tls[title],
        )
        if not association.is_established:
            return None
        without_races(association)
        return association

    def _send(self, association: Association, held: HeldTransaction, verdict: Verdict) -> bool:
        dataset = report_dataset(held.transaction.transaction_uid, verdict)
        try:
            answer, _ = association.send_n_event_report(
                dataset, event_type(verdict), UID(PUSH_MODEL), UID(PUSH_MODEL_INSTANCE)
            )
        except (RuntimeError, ValueError) as error:  # lost meanwhile; or the context or our role was not accepted
            log.warning("commitment_report_failed", exc_info=error)
            return False
        return "Status" in answer and int(answer.Status) == ServiceStatus.SUCCESS

    def _put_off(self, held: HeldTransaction, reason: str) -> None:
        transaction = held.transaction
        attempts = self._attempts[transaction.key]
        attempts.count += 1
        settings = self._settings
        if time.time() - transaction.asked_at >= settings.commitment_give_up_s:
            log.error("commitment_report_dropped", calling_ae_title=transaction.calling_ae_title, reason=reason)
            self._reports.labels(outcome="dropped").inc()
            held.done()
            return
        wait_s = settings.commitment_first_retry_s * 2.0 ** min(attempts.count - 1, 30)
        attempts.due_at = time.monotonic() + min(wait_s, settings.commitment_longest_retry_s)
        self._reports.labels(outcome="retry").inc()
        log.warning(
            "commitment_report_waits",
            calling_ae_title=transaction.calling_ae_title,
            reason=reason,
            attempts=attempts.count,
        )

    def _repeat(self, work: Any, interval_s: float) -> None:
        while not self._stopping.wait(interval_s):
            try:
                work()
            except Exception:
                # A failing disk, or our own mistake: the thread must live on, and the next turn tries again.
                log.exception("commitment_turn_failed")


def _tls(title: str, peer: CommitmentPeer) -> dict[str, Any]:
    if not peer.tls:
        return {}
    try:
        context = ssl.create_default_context(cafile=peer.tls_ca)
        if peer.tls_certificate is not None:
            context.load_cert_chain(peer.tls_certificate, peer.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"RADSTREAM_SCP_COMMITMENT_PEERS: TLS files of {title} cannot be read") from error
    return {"tls_args": (context, peer.host)}
