"""The SCP as processes: starting, stopping, dying, and what a wrong setting says."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

FORBIDDEN = ("torch", "cv2", "onnxruntime", "tensorrt", "worker", "training")


def test_loading_the_scp_loads_no_inference(run_python):
    done = run_python(
        "-c", f"import scp.__main__, scp.receiver, sys; print([n for n in {FORBIDDEN} if n in sys.modules])"
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_a_receiver_loads_neither_redis_nor_the_database(run_python):
    names = ("redis", "rq", "sqlalchemy")
    done = run_python("-c", f"import scp.receiver, sys; print([n for n in {names} if n in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


def test_help_teaches(run_python):
    done = run_python("-m", "scp", "--help")
    assert done.returncode == 0
    for word in ("--port", "--ae-title", "--processes", "storescu", "RADSTREAM_SCP_MAX_PENDING", "/metrics"):
        assert word in done.stdout


WRONG = {
    "an unknown setting": ({"RADSTREAM_SCP_PROT": "1"}, "RADSTREAM_SCP_PORT"),
    "a port that is none": ({"RADSTREAM_SCP_PORT": "99999"}, "RADSTREAM_SCP_PORT"),
    "an AE title that is too long": ({"RADSTREAM_AE_TITLE": "A" * 17}, "RADSTREAM_AE_TITLE"),
    "a list that is no list": ({"RADSTREAM_SCP_STAT_AE_TITLES": "TRAUMA"}, "JSON"),
    "an address that is none": ({"RADSTREAM_SCP_ALLOWED_CALLING_ADDRESSES": '{"A": ["here"]}'}, "ALLOWED_CALLING_ADDR"),
    "a host that is not ours": ({"RADSTREAM_SCP_HOST": "192.0.2.1"}, "192.0.2.1"),
    "a missing certificate": ({"RADSTREAM_SCP_TLS_CERTIFICATE": "/nowhere.pem"}, "TLS_CERTIFICATE"),
    "a certificate that is none": ({"RADSTREAM_SCP_TLS_CERTIFICATE": __file__}, "TLS_CERTIFICATE"),
    "TLS by halves": ({"RADSTREAM_SCP_TLS_REQUIRE_CLIENT_CERTIFICATE": "true"}, "tls_certificate"),
    "a Redis URL that is none": ({"RADSTREAM_REDIS_URL": "http://localhost"}, "RADSTREAM_REDIS_URL"),
    "a database URL that is none": ({"RADSTREAM_DATABASE_URL": "here"}, "RADSTREAM_DATABASE_URL"),
    "a spool that cannot be": ({"RADSTREAM_SPOOL_DIR": "/proc/spool"}, "RADSTREAM_SPOOL_DIR"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_setting_is_one_line_and_exit_code_2(name, run_python, tmp_path):
    settings, expected = WRONG[name]
    quiet = {"RADSTREAM_DATA_DIR": str(tmp_path), "RADSTREAM_SCP_PORT": "0", "RADSTREAM_SCP_TELEMETRY_PORT": "0"}
    done = run_python("-m", "scp", env={**quiet, **settings})
    assert done.returncode == 2
    assert expected in done.stderr
    assert done.stderr.startswith("scp: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("taken", ["RADSTREAM_SCP_PORT", "RADSTREAM_SCP_TELEMETRY_PORT"])
def test_a_port_in_use_is_one_line_and_exit_code_2(taken, run_python, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        free = {"RADSTREAM_SCP_PORT": "0", "RADSTREAM_SCP_TELEMETRY_PORT": "0", "RADSTREAM_SCP_HOST": "127.0.0.1"}
        done = run_python("-m", "scp", env={**free, "RADSTREAM_DATA_DIR": str(tmp_path), taken: str(port)})
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert str(port) in done.stderr


def test_options_win_over_the_environment(run_python, tmp_path):
    done = run_python(
        "-m", "scp", "--port", "70000", env={"RADSTREAM_SCP_PORT": "11112", "RADSTREAM_DATA_DIR": str(tmp_path)}
    )
    assert done.returncode == 2
    assert "RADSTREAM_SCP_PORT" in done.stderr


# Several processes


def test_several_processes_share_one_port_and_the_associations(start_scp, associate, instance, eventually):
    scp = start_scp(SCP_PROCESSES="3")
    assert len(scp.receivers()) == 3
    held = [associate(scp) for _ in range(9)]
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda a=a: statuses.extend(a.send_c_store(instance()).Status for _ in range(5)))
        for a in held
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [0] * 45
    assert len(scp.pending()) == 45
    metrics = scp.metrics()
    assert metrics['radstream_scp_instances_total{status="success"}'] == 45
    assert metrics["radstream_scp_store_seconds_count"] == 45
    assert metrics["radstream_scp_spool_pending"] == 45
    assert metrics["radstream_scp_open_associations"] == 9
    per_receiver = [Path(f"/proc/{pid}/task").iterdir() for pid in scp.receivers()]
    assert min(len(list(tasks)) for tasks in per_receiver) > 1  # each has threads of associations, none is idle


def test_metrics_and_health_are_served(start_scp, associate, instance, eventually):
    scp = start_scp()
    assert associate(scp).send_c_store(instance()).Status == 0x0000
    assert scp.http("/healthz")[0] == 200
    assert json.loads(scp.http("/readyz")[1]) == {"ready": True, "failing": {}}
    eventually(lambda: scp.metrics()["radstream_scp_sweeps_total"] >= 1)
    metrics = scp.metrics()
    assert metrics["radstream_scp_bytes_total"] > 2048
    assert metrics["radstream_scp_spool_free_bytes"] > 0
    assert metrics["radstream_scp_redis_up"] == 0


# Stopping


def halfway(peer, instance, speech) -> tuple[bytes, object]:
    """Send the first half of a message and give the second."""
    dataset = instance(800, 800)
    peer.associate()
    peer.send(speech.pdu(speech.pdv(3, speech.store_command(dataset)), speech.pdv(0, bytes(50_000))))
    return speech.pdu(speech.pdv(2, bytes(50_000))), dataset


def test_sigterm_lets_an_open_store_finish_and_ends_idle_associations(
    start_scp, raw_peer, associate, instance, speech, eventually
):
    scp = start_scp(SCP_PROCESSES="2")
    peer = raw_peer(scp)
    rest, dataset = halfway(peer, instance, speech)
    idle = associate(scp)
    eventually(lambda: scp.incoming())
    scp.process.terminate()
    eventually(lambda: idle.is_released)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", scp.port), 5)
    time.sleep(0.3)
    peer.send(rest)
    assert peer.status() == 0x0000
    assert peer.receive()[0] == "release request"
    peer.send(bytes.fromhex("06000000000400000000"))
    assert scp.process.wait(20) == 0
    assert [entry.sop_instance_uid for entry in scp.pending()] == [dataset.SOPInstanceUID]
    assert scp.incoming() == []


def test_a_stop_waits_no_longer_than_its_grace(start_scp, raw_peer, instance, speech, eventually):
    scp = start_scp(SCP_STOP_GRACE_S="0.5")
    peer = raw_peer(scp)
    halfway(peer, instance, speech)
    eventually(lambda: scp.incoming())
    began = time.monotonic()
    assert scp.stop() == 0
    assert time.monotonic() - began < 25, "unless told otherwise it waits for 30 s"
    assert scp.pending() == []
    assert scp.incoming() == []
    assert scp.events("association_cut_off")


def test_an_interrupt_from_the_keyboard_stops_too(start_scp):
    scp = start_scp()
    scp.process.send_signal(signal.SIGINT)
    assert scp.process.wait(20) == 0
    assert "Traceback" not in scp.log()


# Dying


def test_a_killed_receiver_is_replaced_and_what_it_accepted_is_kept(
    start_scp, associate, instance, raw_peer, speech, eventually
):
    scp = start_scp(SCP_MAX_ASSOCIATIONS="2")
    (receiver,) = scp.receivers()
    accepted = associate(scp)
    assert accepted.send_c_store(instance()).Status == 0x0000
    peer = raw_peer(scp)
    halfway(peer, instance, speech)
    os.kill(receiver, signal.SIGKILL)
    eventually(lambda: scp.receivers() not in ([], [receiver]))
    # The limit of two was reached before; the dead receiver's associations no longer count.
    association = associate(scp)
    eventually(lambda: scp.metrics()["radstream_scp_receivers"] == 1)
    assert association.send_c_store(instance()).Status == 0x0000
    assert len(scp.pending()) == 2
    assert scp.metrics()['radstream_scp_instances_total{status="success"}'] == 2
    assert scp.events("receiver_died")


def test_receivers_end_when_their_parent_is_killed(start_scp, associate, instance, raw_peer, speech, eventually):
    scp = start_scp(SCP_PROCESSES="2")
    receivers = scp.receivers()
    assert associate(scp).send_c_store(instance()).Status == 0x0000
    peer = raw_peer(scp)
    rest, _ = halfway(peer, instance, speech)
    scp.kill()
    time.sleep(0.3)
    peer.send(rest)
    assert peer.status() == 0x0000
    peer.connection.close()
    eventually(lambda: not any(is_running(pid) for pid in receivers))
    assert len(scp.pending()) == 2
    scp.start()
    assert scp.metrics()["radstream_scp_spool_pending"] == 2


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_stale_partial_file_is_removed_at_the_start(start_scp, eventually):
    scp = start_scp()
    scp.stop()
    stale, fresh = (scp.spool.root / "incoming" / name for name in ("1-stale.part", "2-fresh.part"))
    for path in (stale, fresh):
        path.write_bytes(b"half of it")
    hours_ago = time.time() - 2 * 3600
    os.utime(stale, (hours_ago, hours_ago))
    scp.start()
    eventually(lambda: not stale.exists())
    assert fresh.exists()


# DCMTK


@pytest.mark.peers
def test_dcmtk_echoes_and_stores(start_scp, instance, dcmtk, tmp_path):
    scp = start_scp(SCP_PROCESSES="2")
    target = ["-aec", "RADSTREAM", "127.0.0.1", str(scp.port)]
    assert subprocess.run([dcmtk("echoscu"), *target], timeout=60).returncode == 0
    files = []
    for number in range(20):
        files.append(str(tmp_path / f"{number}.dcm"))
        instance(200 + number, 200).save_as(files[-1], enforce_file_format=True)
    senders = [subprocess.Popen([dcmtk("storescu"), *target, *files[way::4]]) for way in range(4)]
    assert [sender.wait(60) for sender in senders] == [0, 0, 0, 0]
    assert len(scp.pending()) == 20


@pytest.mark.peers
def test_dcmtk_abort_within_a_message_leaves_nothing(start_scp, instance, dcmtk, tmp_path, eventually):
    scp = start_scp()
    instance(3000, 3000).save_as(tmp_path / "a.dcm", enforce_file_format=True)
    target = ["-aec", "RADSTREAM", "127.0.0.1", str(scp.port)]
    sender = subprocess.Popen([dcmtk("storescu"), *target, str(tmp_path / "a.dcm")])
    eventually(lambda: scp.incoming() or scp.pending() or sender.poll() is not None)
    sender.kill()
    sender.wait()
    eventually(lambda: not scp.incoming())
