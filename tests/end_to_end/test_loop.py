"""An archive that routes whatever it stores back to us: the loop ends where the first outputs come back."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from instances import chest, save
from orthanc_server import Orthanc
from reconciliation import Ledger, tails

from deploy.launcher import Feed, wait_until

ROUTES_EVERYTHING_BACK = """
function OnStoredInstance(instanceId, tags, metadata)
    SendToModality(instanceId, 'radstream')
end
"""
QUIET_S = 6.0
"""Three sweeps, and twice the longest wait of a delivery; a round of the loop takes less than one second."""


@pytest.mark.peers
def test_a_loop_through_an_archive_that_routes_everything_back_ends(
    feeds: Callable[..., Feed], peer_program: Callable[[str], str], tmp_path: Path
) -> None:
    feed = feeds(RADSTREAM_SCP_ACCEPT_ALL_STORAGE="true")
    server = Orthanc(peer_program("Orthanc"), tmp_path / "orthanc", feed.port, ROUTES_EVERYTHING_BACK)
    try:
        destination = {
            "name": "orthanc",
            "host": "127.0.0.1",
            "port": server.dicom_port,
            "ae_title": "ORTHANC",
            "outputs": ["secondary_capture", "structured_report", "parametric_map"],
            "not_analysed": True,  # a report of a report would be a loop of its own
        }
        feed.environment["RADSTREAM_WORKER_DESTINATIONS"] = json.dumps([destination])
        feed.start()
        ledger = Ledger(feed)
        server.post("/instances", save(chest(64), tmp_path / "chest.dcm").read_bytes())

        def came_back() -> bool:
            made = len(ledger.rows("SELECT id FROM output"))
            return made > 0 and Counter(ledger.states().values()) == Counter(done=1, skipped=made)

        assert wait_until(came_back, 60), f"{Counter(ledger.states().values())}\n{tails(feed)}"
        counted = _counts(ledger, server)
        time.sleep(QUIET_S)
        assert _counts(ledger, server) == counted, "something still goes round"

        outputs = {str(row["sop_instance_uid"]) for row in ledger.rows("SELECT sop_instance_uid FROM output")}
        assert len(outputs) == len(destination["outputs"])  # type: ignore[arg-type]
        rows = ledger.rows("SELECT sop_instance_uid, state, reason FROM instance")
        assert Counter((row["state"], row["reason"]) for row in rows) == {
            ("done", None): 1,
            ("skipped", "own_output"): len(outputs),
        }
        assert {row["sop_instance_uid"] for row in rows if row["state"] == "skipped"} == outputs
        assert counted["stored by Orthanc"] == 1 + len(outputs)
        assert counted["arrivals"] == 1 + len(outputs)
        ledger.close()
    finally:
        server.stop()


def _counts(ledger: Ledger, server: Orthanc) -> dict[str, object]:
    counts = {
        table: ledger.rows(f"SELECT count(*) AS count FROM {table}")[0]["count"]
        for table in ("instance", "inference", "output", "delivery")
    }
    (again,) = ledger.rows("SELECT count(*) + sum(duplicates) + sum(conflicts) AS arrivals FROM instance")
    return {**counts, **again, "stored by Orthanc": len(server.get("/instances"))}
