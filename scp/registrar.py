"""Registers accepted instances in the ledger and queues them.

The receivers tell of each instance after they have answered Success; nothing here can take that back. Whatever
fails here (Redis down, database down, a notice lost) is done again by the sweeper from the files in the spool.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from prometheus_client import Gauge
from redis.exceptions import RedisError
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from migrations.compatibility import SchemaMismatch
from models.any_spool import AnySpool
from models.errors import Reason
from models.queues import Queues
from models.records.ledger import DuplicatePolicy, Registration, mark_queued, register
from models.records.sessions import is_outage
from models.requests import InferenceRequest
from models.telemetry import get_logger

BACKLOG: Final = 20_000
"""Notices that may wait; more are left to the sweeper."""
GROUP: Final = 250
"""Instances registered in one transaction."""
GROUP_DELAY_S: Final = 0.005
"""After the first notice others are waited for this long; under load that makes groups."""

REST_S: Final = 2.0
"""After a failure, notices are left to the sweeper for so long."""

log = get_logger("scp.registrar")


class Dependency:
    """Whether Redis or the database is there; says so once per change."""

    def __init__(self, gauge: Gauge, reason: Reason) -> None:
        self._gauge = gauge
        self._reason = reason
        self._is_up: bool | None = None
        self._failed_at = 0.0

    @property
    def is_resting(self) -> bool:
        """Whether it failed so lately that another try would only cost time."""
        return self._is_up is False and time.monotonic() - self._failed_at < REST_S

    def up(self) -> None:
        """Note that it answered."""
        self._gauge.set(1)
        if self._is_up is False:
            log.info("available_again", reason=self._reason.value)
        self._is_up = True

    def down(self, error: Exception) -> None:
        """Note that it did not."""
        self._gauge.set(0)
        self._failed_at = time.monotonic()
        if self._is_up is not False:
            log.warning("unavailable", reason=self._reason.value, exc_info=error)
        self._is_up = False


class Registrar:
    """Takes notices from any thread; registers and queues in one of its own.

    Args:
        observe_lag: is told, for each registered instance, the seconds since it was received.
        check_schema: raises `SchemaMismatch` while our code must not use the database, which then counts as away.
    """

    def __init__(
        self,
        spool: AnySpool,
        sessions: sessionmaker[Session],
        queues: Queues,
        policy: DuplicatePolicy,
        redis: Dependency,
        database: Dependency,
        observe_lag: Callable[[float], None],
        check_schema: Callable[[], None] = lambda: None,
    ) -> None:
        self._spool = spool
        self._sessions = sessions
        self._queues = queues
        self._policy: DuplicatePolicy = policy
        self._redis = redis
        self._database = database
        self._observe_lag = observe_lag
        self._check_schema = check_schema
        self._notices: queue.Queue[InferenceRequest | None] = queue.Queue(BACKLOG)
        # The sweeper and this thread must not look and enqueue at the same time, or one instance would get two jobs.
        self._turn = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="registrar", daemon=True)

    def start(self) -> None:
        """Begin to register."""
        self._thread.start()

    def submit(self, request: InferenceRequest) -> None:
        """Hand over one instance; dropped, and left to the sweeper, when too many wait."""
        try:
            self._notices.put_nowait(request)
        except queue.Full:
            return

    def stop(self, timeout_s: float) -> None:
        """Register what waits, for at most so long."""
        try:
            self._notices.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(timeout_s)

    def register_and_queue(
        self, requests: Sequence[InferenceRequest], orphans: frozenset[str] = frozenset()
    ) -> int | None:
        """Register instances, queue those that have work to do, and say how many were queued.

        Settled duplicates and refused conflicts are finished: their spool file goes. None when Redis or the database
        is away; what was not done is done by a later sweep.
        """
        with self._turn:
            try:
                self._check_schema()
                known = self._register(requests)
            except (SQLAlchemyError, SchemaMismatch) as error:
                self._database.down(error)
                return None
            self._database.up()
            for key, registration in known.items():
                if not registration.to_be_queued:
                    self._finish(key, registration)
            waiting = {key for key, registration in known.items() if registration.to_be_queued}
            queued = self._enqueue([request for request in requests if request.spool_key in waiting], orphans)
        if queued:
            self._mark(queued)
        return None if queued is None else len(queued)

    def _register(self, requests: Sequence[InferenceRequest]) -> dict[str, Registration]:
        """Write a group in one transaction; what the database refuses is left out, so that it holds up no other.

        Raises:
            SQLAlchemyError: the database is away.
        """
        try:
            with self._sessions.begin() as session:
                return register(session, requests, self._policy)
        except DBAPIError as error:
            if is_outage(error):
                raise
            if len(requests) == 1:
                # It stays in the spool and is tried at every sweep, and this line says so every time.
                log.error("registration_refused", sop_instance_uid=requests[0].sop_instance_uid, exc_info=error)
                return {}
        known: dict[str, Registration] = {}
        for request in requests:
            known.update(self._register([request]))
        return known

    def _finish(self, key: str, registration: Registration) -> None:
        log.info("duplicate", registration=registration.name.lower(), sop_instance_uid=key.partition("_")[0])
        try:
            self._spool.finish(key)
        except OSError as error:
            log.warning("spool_file_stays", exc_info=error)

    def _enqueue(self, requests: list[InferenceRequest], orphans: frozenset[str]) -> list[InferenceRequest] | None:
        try:
            queued = self._queues.enqueue(requests, orphans)
        except (RedisError, OSError) as error:
            self._redis.down(error)
            return None
        self._redis.up()
        return queued

    def _mark(self, queued: list[InferenceRequest]) -> None:
        try:
            with self._sessions.begin() as session:
                mark_queued(session, [request.sop_instance_uid for request in queued])
        except SQLAlchemyError as error:
            # The state stays `received` until the worker settles it; nothing else depends on it.
            self._database.down(error)

    def _work(self) -> None:
        stopping = False
        while not stopping:
            group = [self._notices.get()]
            time.sleep(GROUP_DELAY_S)
            while len(group) < GROUP and not self._notices.empty():
                group.append(self._notices.get_nowait())
            stopping = None in group
            requests = [request for request in group if request is not None]
            if requests:
                self._work_on(requests)

    def _work_on(self, requests: list[InferenceRequest]) -> None:
        if self._redis.is_resting or self._database.is_resting:
            return
        try:
            queued = self.register_and_queue(requests)
        except Exception:
            # The thread must live on; the sweeper meets the same instances again.
            log.exception("registrar_failed")
            return
        if queued is not None:
            now = time.time()
            for request in requests:
                self._observe_lag(max(0.0, now - request.received_at))
