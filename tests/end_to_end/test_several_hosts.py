"""Several hosts: what they do while some of them are cut off or dead, and that it all adds up afterwards."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

import models.queues
import models.records.sessions
from models.queues import open_redis
from models.records.sessions import is_outage, open_database
from models.settings import Settings
from tests.end_to_end.hosts import NoNamespacesError
from tests.end_to_end.several_hosts import Plan, SeveralHosts


@pytest.fixture(scope="module")
def hosts() -> Iterator[SeveralHosts]:
    try:
        with SeveralHosts(Plan(), lambda line: print(line, flush=True)) as hosts:
            yield hosts
    except NoNamespacesError as error:
        if os.environ.get("CI") and shutil.which("ip") is None:
            pytest.fail(f"{error}; .ci/run installs it")
        pytest.skip(str(error))


@pytest.mark.timeout(500)  # six hosts on one machine, which may be busy
def test_nothing_is_lost_or_doubled_while_hosts_are_cut_off_and_killed(hosts: SeveralHosts) -> None:
    result = hosts.run()
    print(result.printed())
    assert result.is_right, f"{result.printed()}\n{hosts.tails()}"
    assert result.most_pending > 0, "nobody used the bucket"
    assert result.resent > 0, "no failure met an instance on its way"
    survivor = hosts.workers[1]
    reconciled = hosts.run_on(survivor, "-m", "worker", "reconcile")
    assert reconciled.returncode == 0, reconciled.stdout + reconciled.stderr


def test_a_host_that_is_cut_off_does_not_wait_for_ever_and_its_locks_are_set_free(
    hosts: SeveralHosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models.records.sessions, "CUT_OFF_AFTER_S", 2)
    monkeypatch.setattr(models.records.sessions, "CONNECT_TIMEOUT_S", 2)
    monkeypatch.setattr(models.queues, "REDIS_TIMEOUT_S", 1.0)
    cut, services = hosts.modality.host, hosts.services
    settings = Settings(database_url=services.postgres.url)  # type: ignore[arg-type]  # pydantic makes it secret
    lock = text("SELECT pg_advisory_xact_lock(7)")

    def hold_a_lock_and_lose_the_network() -> tuple[float, float]:
        with cut.inside(), open_redis(hosts.environment["RADSTREAM_REDIS_URL"]) as redis:
            database = open_database(settings)
            with pytest.raises(OperationalError) as caught, database.begin() as connection:  # noqa: PT012
                connection.execute(lock)
                redis.ping()
                cut.cut_off()
                began = time.monotonic()
                with pytest.raises(RedisError):
                    redis.ping()
                redis_s = time.monotonic() - began
                connection.execute(text("SELECT 1"))
            database.dispose()
            assert is_outage(caught.value)
            return redis_s, time.monotonic() - began

    with ThreadPoolExecutor(1) as pool:  # a thread of its own, in which another host's network can be entered
        redis_s, database_s = pool.submit(hold_a_lock_and_lose_the_network).result(90)
    assert redis_s < 15
    assert database_s < 30
    with services.host.inside():
        database = open_database(settings)
        with database.begin() as connection:
            connection.execute(text("SET LOCAL lock_timeout = '30s'"))
            connection.execute(lock)
        database.dispose()
    cut.rejoin()
