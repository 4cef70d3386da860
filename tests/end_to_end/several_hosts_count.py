"""The reconciliation of the hosts: what the modality was told, against the records, the bucket and the PACS."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine, text

from deploy.receiver import Receiver
from tests.end_to_end.several_hosts_modality import Modality, Sent


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """Counts of instances where nothing else is said.

    Attributes:
        tries: C-STOREs.
        acknowledged: that got Success at least once.
        resent: C-STOREs beyond the first of an instance.
        findings: rows, of instances that were acknowledged.
        outputs: that the records know.
        delivered: outputs that lie at the PACS, by SOP Instance UID.
        arrived_twice: of them, that came more than once, under the one UID.
        doubled_findings: instances with more than one finding of a version.
        doubled_outputs: instances with more than one output of a kind, or outputs at the PACS that no record knows.
        lost: acknowledged, and without a finding or without one of its outputs at the PACS.
        pending: unfinished, in the bucket.
        most_pending: that there were, when anybody looked.
    """

    instances: int
    by_scp: dict[str, Sent]
    tries: int
    acknowledged: int
    acknowledged_twice: int
    resent: int
    done: int
    findings: int
    outputs: int
    delivered: int
    arrived_twice: int
    doubled_findings: int
    doubled_outputs: int
    lost: int
    pending: int
    most_pending: int

    @property
    def is_complete(self) -> bool:
        """Whether nothing is under way any more."""
        # Outputs are known only once their instances are done.
        return self.done == self.instances and self.outputs == self.delivered and not (self.lost or self.pending)

    @property
    def is_right(self) -> bool:
        """Whether everything was acknowledged, and has one finding, and each output once."""
        return (
            self.is_complete
            and self.acknowledged == self.findings == self.instances
            and not (self.doubled_findings or self.doubled_outputs)
        )

    def printed(self) -> str:
        """Draw it as text."""
        console = Console(width=80)
        with console.capture() as captured:
            console.print(self.table())
        return captured.get()

    def table(self) -> Table:
        """Draw it."""
        table = Table(title="Reconciliation")
        table.add_column("")
        for name in [*self.by_scp, "all"]:
            table.add_column(name, justify="right")
        told = list(self.by_scp.values())
        for label, values in {
            "instances acquired": [None] * len(told) + [self.instances],
            "C-STOREs sent": [each.sent for each in told] + [self.tries],
            "  Success": [each.acknowledged for each in told] + [sum(each.acknowledged for each in told)],
            "  refused": [each.refused for each in told] + [sum(each.refused for each in told)],
            "  no answer": [each.unanswered for each in told] + [sum(each.unanswered for each in told)],
            "no association": [each.unreachable for each in told] + [sum(each.unreachable for each in told)],
        }.items():
            table.add_row(label, *("" if value is None else str(value) for value in values))
        table.add_section()
        for label, value in {
            "resent": self.resent,
            "instances acknowledged": self.acknowledged,
            "  more than once": self.acknowledged_twice,
            "instances done": self.done,
            "findings": self.findings,
            "outputs made": self.outputs,
            "outputs at the PACS": self.delivered,
            "  sent more than once, same UID": self.arrived_twice,
            "pending in the bucket, at most": self.most_pending,
            "  left in it": self.pending,
            "findings doubled": self.doubled_findings,
            "outputs doubled": self.doubled_outputs,
            "lost": self.lost,
        }.items():
            table.add_row(label, *[""] * len(told), str(value))
        return table


def count(
    database: Engine, modality: Modality, archive: Receiver, uids: Sequence[str], pending: int, most_pending: int
) -> Reconciliation:
    """Count everything as it is now."""
    with database.connect() as connection:
        rows = connection.execute(text("SELECT sop_instance_uid, state FROM instance"))
        states = {uid: state for uid, state in rows}
        found = Counter(
            connection.scalars(
                text(
                    "SELECT sop_instance_uid FROM inference"
                    " JOIN instance ON instance.id = inference.instance_id"
                    " JOIN classification_finding ON classification_finding.inference_id = inference.id"
                )
            )
        )
        rows = connection.execute(
            text(
                "SELECT instance.sop_instance_uid, output.kind, output.sop_instance_uid FROM output"
                " JOIN instance ON instance.id = output.instance_id"
            )
        )
        outputs = [(source, kind, uid) for source, kind, uid in rows]
    arrived = dict(archive.counts)
    made = Counter((source, kind) for source, kind, _ in outputs)
    kinds = {kind for _, kind, _ in outputs}
    there = {(source, kind) for source, kind, uid in outputs if uid in arrived}
    acknowledged = set(modality.acknowledged)
    unknown = set(arrived) - {uid for _, _, uid in outputs}
    whole = {uid for uid in acknowledged if found[uid] and kinds and all((uid, kind) in there for kind in kinds)}
    return Reconciliation(
        instances=len(uids),
        by_scp=dict(modality.by_scp),
        tries=modality.tries.total(),
        acknowledged=len(acknowledged & set(uids)),
        acknowledged_twice=sum(number > 1 for number in modality.acknowledged.values()),
        resent=sum(number - 1 for number in modality.tries.values()),
        done=sum(states.get(uid) == "done" for uid in uids),
        findings=sum(found[uid] for uid in uids),
        outputs=len(outputs),
        delivered=sum(uid in arrived for _, _, uid in outputs),
        arrived_twice=sum(number > 1 for number in arrived.values()),
        doubled_findings=sum(number > 1 for number in found.values()),
        doubled_outputs=sum(number > 1 for number in made.values()) + len(unknown),
        lost=len(acknowledged - whole),
        pending=pending,
        most_pending=most_pending,
    )
