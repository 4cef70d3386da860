"""The whole SCP with a real Redis and database: what is accepted gets queued, whatever is away meanwhile."""

from __future__ import annotations

import threading

from rq import Queue
from rq.serializers import JSONSerializer
from sqlalchemy import select

from migrations.schema import migrate
from models.records.dicom import Instance, InstanceState
from models.records.sessions import open_database
from models.settings import Settings


def feed_settings(redis_server, sessions, **more: str) -> dict[str, str]:
    url = str(sessions.kw["bind"].url) if sessions is not None else more["DATABASE_URL"]
    return {"REDIS_URL": redis_server.url, "DATABASE_URL": url, "SCP_SWEEP_INTERVAL_S": "0.5", **more}


def jobs(redis) -> list[str]:
    return [
        job_id
        for lane in ("stat", "routine")
        for job_id in Queue(lane, connection=redis, serializer=JSONSerializer).job_ids
    ]


def test_a_stored_instance_is_registered_and_queued_at_once(
    start_scp, associate, instance, redis_server, redis, sqlite_sessions, eventually
):
    scp = start_scp(**feed_settings(redis_server, sqlite_sessions, SCP_SWEEP_INTERVAL_S="600"))
    dataset = instance()
    assert associate(scp).send_c_store(dataset).Status == 0x0000
    eventually(lambda: jobs(redis))
    assert jobs(redis) == [scp.pending()[0].key.replace(".", "_")]
    with sqlite_sessions() as session:
        row = session.scalars(select(Instance)).one()
    assert row.sop_instance_uid == dataset.SOPInstanceUID
    assert row.state in {InstanceState.RECEIVED, InstanceState.QUEUED}
    metrics = scp.metrics()
    assert metrics["radstream_scp_redis_up"] == metrics["radstream_scp_database_up"] == 1
    assert metrics["radstream_scp_registrar_lag_seconds_count"] == 1


def test_the_same_instance_over_many_associations_is_one_job(
    start_scp, associate, instance, redis_server, redis, sqlite_sessions, eventually
):
    scp = start_scp(**feed_settings(redis_server, sqlite_sessions, SCP_PROCESSES="2"))
    dataset = instance()
    held = [associate(scp) for _ in range(4)]
    threads = [threading.Thread(target=association.send_c_store, args=(dataset,)) for association in held]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    eventually(lambda: scp.metrics()['radstream_scp_instances_total{status="success"}'] == 4)
    eventually(lambda: jobs(redis))
    sweeps = scp.metrics()["radstream_scp_sweeps_total"]
    eventually(lambda: scp.metrics()["radstream_scp_sweeps_total"] > sweeps + 1)
    assert len(jobs(redis)) == 1


def test_instances_are_accepted_without_redis_and_queued_when_it_is_back(
    start_scp, associate, instance, redis_server, redis, sqlite_sessions, eventually
):
    redis_server.stop()
    scp = start_scp(**feed_settings(redis_server, sqlite_sessions))
    association = associate(scp)
    assert [association.send_c_store(instance()).Status for _ in range(5)] == [0] * 5
    eventually(lambda: scp.events("unavailable"))
    redis_server.start()
    eventually(lambda: len(jobs(redis)) == 5)
    assert [event["reason"] for event in scp.events("unavailable")] == ["redis_unavailable"]
    assert len(scp.events("available_again")) == 1


def test_instances_are_accepted_without_a_database_and_queued_when_it_is_there(
    start_scp, associate, instance, redis_server, redis, tmp_path, eventually
):
    url = f"sqlite:///{tmp_path}/later/radstream.db"
    scp = start_scp(**feed_settings(redis_server, None, DATABASE_URL=url))
    association = associate(scp)
    assert [association.send_c_store(instance()).Status for _ in range(5)] == [0] * 5
    eventually(lambda: scp.events("unavailable"))
    assert jobs(redis) == []
    engine = open_database(Settings(database_url=url))
    migrate(engine)
    engine.dispose()
    eventually(lambda: len(jobs(redis)) == 5)
    assert [event["reason"] for event in scp.events("unavailable")] == ["database_unavailable"]


def test_after_a_redis_flush_the_sweeper_queues_again(
    start_scp, associate, instance, redis_server, redis, sqlite_sessions, eventually
):
    scp = start_scp(**feed_settings(redis_server, sqlite_sessions))
    association = associate(scp)
    assert [association.send_c_store(instance()).Status for _ in range(5)] == [0] * 5
    eventually(lambda: len(jobs(redis)) == 5)
    redis.flushall()
    eventually(lambda: len(jobs(redis)) == 5)
    eventually(lambda: scp.metrics()["radstream_scp_swept_instances_total"] >= 5)  # counted after they are queued


def test_after_kill_9_of_everything_the_next_start_queues_what_was_accepted(
    start_scp, associate, instance, redis_server, redis, sqlite_sessions, eventually
):
    redis_server.stop()
    scp = start_scp(**feed_settings(redis_server, sqlite_sessions))
    association = associate(scp)
    assert [association.send_c_store(instance()).Status for _ in range(3)] == [0] * 3
    scp.kill()
    redis_server.start()
    scp.start()
    eventually(lambda: len(jobs(redis)) == 3)


def test_nothing_of_a_patient_is_in_logs_metrics_or_redis(
    start_scp, associate, instance, redis_server, redis, sqlite_sessions, eventually
):
    scp = start_scp(**feed_settings(redis_server, sqlite_sessions, LOG_LEVEL="debug"))
    association = associate(scp)
    assert association.send_c_store(instance(PatientName="Planted^Name", PatientID="PLANTED-ID")).Status == 0
    association.release()
    eventually(lambda: jobs(redis))
    redis_content = b"".join(redis.dump(key) or b"" for key in redis.scan_iter())
    for text in (scp.log(), scp.http("/metrics")[1], redis_content.decode("latin-1")):
        assert "Planted" not in text
        assert "PLANTED" not in text
    assert scp.stop() == 0
    assert "Traceback" not in scp.log()
