"""Sections 7.1 and 7.2 of the statement: how associations are made, and the presentation contexts of each entity."""

from __future__ import annotations

from typing import Final

from pynetdicom.ae import ApplicationEntity

from deploy.conformance import contexts
from deploy.conformance.contexts import Entity
from deploy.conformance.markdown import paragraphs, table, uid_cells
from models.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from scp.settings import ScpSettings
from worker.settings import WorkerSettings

_APPLICATION_CONTEXT: Final = "1.2.840.10008.3.1.1.1"
_ACTIVITIES: Final = {
    Entity.RECEIVER: "RECEIVER accepts associations at any time. It opens one to report on storage commitment where "
    "the association of the request is gone or busy.",
    Entity.DELIVERY: "DELIVERY opens an association to a destination when there is an output for it, and another one "
    "to ask for commitment. It accepts associations only where `commitment_port` is set, for reports.",
    Entity.RETRIEVAL: "RETRIEVAL opens an association when a command needs it. SCP roles for storage are selected on "
    "it, for the classes of the instances that are wanted: those of radiographs, or others that were once received.",
    Entity.DIAGNOSIS: "DIAGNOSIS opens one association to each peer that it asks, by `python -m worker doctor` and "
    "`python -m scp doctor`, and with `--phantom` one more to RECEIVER.",
}


def render() -> str:
    """Give both sections."""
    parts = [
        "## 7 Network and media communication details",
        "### 7.1 General",
        table(("parameter", "value"), _general()),
        "Transfer syntaxes, and their place in the lists that the tables of presentation contexts speak of:",
        contexts.render_transfer_syntaxes(),
        "### 7.2 Specifications of the Application Entities",
    ]
    for number, entity in enumerate(Entity, 1):
        parts += [f"#### 7.2.{number} {entity}", _ACTIVITIES[entity], contexts.render(entity)]
    parts.append("RECEIVER accepts further storage classes (annex A.F) with `accept_all_storage`, in the same list.")
    return paragraphs(*parts)


def _general() -> list[tuple[str, str]]:
    receiver, worker = ScpSettings.model_fields, WorkerSettings.model_fields
    proposed_pdu = ApplicationEntity().maximum_pdu_size
    return [
        ("Application Context Name", f"`{_APPLICATION_CONTEXT}`"),
        ("Implementation Class UID", f"`{IMPLEMENTATION_CLASS_UID}`"),
        ("Implementation Version Name", f"`{IMPLEMENTATION_VERSION_NAME}`"),
        ("Maximum PDU size, RECEIVER", f"{receiver['max_pdu_bytes'].default} bytes, configurable"),
        ("Maximum PDU size, DELIVERY and RETRIEVAL", f"{proposed_pdu} bytes"),
        ("Associations accepted at once, RECEIVER", f"{receiver['max_associations'].default}, configurable"),
        (
            "Associations opened at once",
            "one to each destination for outputs and one for commitment; one by each command",
        ),
        ("Asynchronous operations", "not supported, one operation at a time"),
        ("Extended negotiation", "SCP/SCU role selection only; SOP Class extended negotiation is ignored"),
        ("Time for an association, RECEIVER", f"{receiver['acse_timeout_s'].default:g} s, configurable"),
        ("Silence within a message, RECEIVER", f"{receiver['dimse_timeout_s'].default:g} s, configurable"),
        ("Silence between messages, RECEIVER", f"{receiver['idle_timeout_s'].default:g} s, configurable"),
        ("Silence of a peer, DELIVERY", f"{worker['delivery_timeout_s'].default:g} s, configurable"),
        ("Silence of a peer, RETRIEVAL", f"{worker['backfill_timeout_s'].default:g} s for C-GET, configurable"),
        ("Addresses", "IPv4 and IPv6, names by DNS"),
    ]


def render_further_classes() -> str:
    """Give annex F."""
    rows = (uid_cells(uid) for uid in contexts.further_storage_classes())
    return paragraphs(
        "## Annex A.F Storage SOP Classes accepted with `accept_all_storage`",
        "Instances of these classes are accepted, and reported as not analysed unless a routing rule names a task.",
        table(("SOP Class", "UID"), rows),
    )
