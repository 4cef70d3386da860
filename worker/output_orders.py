"""Says what decoding processes are to make of an instance: the outputs of its answers, or the report of its refusal."""

from __future__ import annotations

from collections.abc import Callable

from models.any_spool import AnySpool
from models.errors import Reason, Skipped, Transient, Unprocessable
from models.requests import InferenceRequest
from models.tasks import Task
from worker.item import Item
from worker.outbox import AnyOutbox
from worker.rendering import RefusalOrder, RenderOrder
from worker.stages import StageContext


class OutputOrders:
    """Writes orders; whether any is wanted, the context says."""

    def __init__(
        self, spool: AnySpool, outbox: AnyOutbox, context: StageContext, revision_of: Callable[[InferenceRequest], int]
    ) -> None:
        self._spool = spool
        self._outbox = outbox
        self._context = context
        self._revision_of = revision_of

    def of_answers(self, item: Item) -> dict[Task, RenderOrder]:
        """Give an order for each answer of an instance; none where no destination wants anything."""
        if item.prepared is None or not item.answers or not self._context.kinds:
            return {}
        revision = self._revision(item.request)
        return {
            task: RenderOrder(
                source_path=str(self._spool.local_path(item.request.spool_key)),
                source_sop_instance_uid=item.request.sop_instance_uid,
                revision=revision,
                display=item.prepared.display,
                manifest=answer.manifest,
                engine=answer.engine,
                finding=answer.finding,
                outbox=str(self._outbox.root),
                kinds=self._context.kinds,
            )
            for task, answer in item.answers.items()
        }

    def of_refusal(self, request: InferenceRequest, refusal: Unprocessable) -> RefusalOrder | None:
        """Give the order of the report that an instance was not analysed; None where no destination wants one."""
        if not self._context.reports_refusals or refusal.reason is Reason.OWN_OUTPUT:
            return None
        return RefusalOrder(
            source_path=str(self._spool.local_path(request.spool_key)),
            source_sop_instance_uid=request.sop_instance_uid,
            calling_ae_title=request.calling_ae_title,
            revision=self._revision(request),
            reason=refusal.reason,
            skipped=isinstance(refusal, Skipped),
            own_ae_titles=self._context.own_ae_titles,
            outbox=str(self._outbox.root),
        )

    def _revision(self, request: InferenceRequest) -> int:
        try:
            return self._revision_of(request)
        except Transient:
            return 0  # the database is away; settling waits for it, and a replaced instance is a rare guest
