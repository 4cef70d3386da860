"""Presentation contexts of the statement: what is proposed to peers and accepted from them, from the code's tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from pynetdicom import build_context
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind as STUDY_ROOT_FIND,
)
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelGet as STUDY_ROOT_GET,
)

from deploy.conformance.markdown import paragraphs, table, uid_cells
from models.diagnosis.peers import ASKED_SYNTAXES, VERIFICATION
from models.pixels.syntaxes import DECODABLE_TRANSFER_SYNTAXES, LOSSY_TRANSFER_SYNTAXES
from scp.commitment_messages import PUSH_MODEL
from scp.contexts import COMMITMENT_TRANSFER_SYNTAXES, RADIOGRAPH_SOP_CLASSES, storage_classes, supported_contexts
from worker import commitment, phantom
from worker.sender import OUTPUT_STORAGE_CLASSES, OUTPUT_TRANSFER_SYNTAXES


class Entity(StrEnum):
    """The application entities of the statement."""

    RECEIVER = "RECEIVER"
    DELIVERY = "DELIVERY"
    RETRIEVAL = "RETRIEVAL"
    DIAGNOSIS = "DIAGNOSIS"


@dataclass(frozen=True, slots=True)
class Negotiation:
    """One abstract syntax that an entity proposes or accepts.

    Attributes:
        role: that we take.
        selects_role: whether SCP/SCU role selection is negotiated for it.
    """

    entity: Entity
    activity: str
    role: str
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]
    selects_role: bool = False


def proposed() -> list[Negotiation]:
    """Give what is proposed on associations that we open."""
    receiver, delivery, retriever, doctor = Entity
    push = PUSH_MODEL
    find, get = build_context(STUDY_ROOT_FIND), build_context(STUDY_ROOT_GET)
    return [
        Negotiation(receiver, "report on commitment", "SCP", push, tuple(COMMITMENT_TRANSFER_SYNTAXES), True),
        *(
            Negotiation(delivery, "send outputs", "SCU", uid, OUTPUT_TRANSFER_SYNTAXES)
            for uid in OUTPUT_STORAGE_CLASSES
        ),
        Negotiation(delivery, "ask for commitment", "SCU", push, commitment.TRANSFER_SYNTAXES),
        *_of(retriever, "look for outputs", [find]),
        *_of(retriever, "fetch instances", [get]),
        *(
            Negotiation(retriever, "take instances", "SCP", uid, DECODABLE_TRANSFER_SYNTAXES, True)
            for uid in RADIOGRAPH_SOP_CLASSES
        ),
        Negotiation(
            doctor, "ask peers", "SCU", VERIFICATION, tuple(map(str, build_context(VERIFICATION).transfer_syntax))
        ),
        *(
            Negotiation(doctor, "ask peers", "SCU", uid, tuple(map(str, ASKED_SYNTAXES)))
            for uid in (*OUTPUT_STORAGE_CLASSES, push)
        ),
        Negotiation(doctor, "send a phantom", "SCU", str(phantom.SOP_CLASS), (str(phantom.TRANSFER_SYNTAX),)),
    ]


def accepted() -> list[Negotiation]:
    """Give what is accepted on associations of peers, but for what `accept_all_storage` adds."""
    reports = commitment.reporting_entity("ANY").supported_contexts
    return [
        *_of(Entity.RECEIVER, "receive", supported_contexts(False, commitment=True), "SCP"),
        *_of(Entity.DELIVERY, "take reports", reports, "SCU"),
    ]


def further_storage_classes() -> list[str]:
    """Give the storage classes that `accept_all_storage` adds."""
    return [str(uid) for uid in storage_classes(True) if uid not in RADIOGRAPH_SOP_CLASSES]


def _of(
    entity: Entity, activity: str, contexts: Iterable[PresentationContext], role: str = "SCU"
) -> Iterator[Negotiation]:
    for context in contexts:
        selects = bool(context.scu_role and context.scp_role)
        own = "SCP and SCU" if selects and role == "SCP" else role
        if context.abstract_syntax == VERIFICATION:
            own = "SCP"
        syntaxes = tuple(map(str, context.transfer_syntax))
        yield Negotiation(entity, activity, own, str(context.abstract_syntax), syntaxes, selects)


def render(entity: Entity) -> str:
    """Give the tables of contexts of one entity."""
    groups = _groups()
    return paragraphs(
        f"Presentation contexts that {entity} proposes:",
        _table((each for each in proposed() if each.entity is entity), groups),
        f"Presentation contexts that {entity} accepts:",
        _table((each for each in accepted() if each.entity is entity), groups),
    )


def _table(negotiations: Iterable[Negotiation], groups: dict[tuple[str, ...], str]) -> str:
    header = ("activity", "abstract syntax", "UID", "transfer syntaxes", "role", "extended negotiation")
    return table(
        header,
        (
            (
                each.activity,
                *uid_cells(each.abstract_syntax),
                groups[tuple(map(str, each.transfer_syntaxes))],
                each.role,
                "role selection" if each.selects_role else "none",
            )
            for each in negotiations
        ),
    )


def _groups() -> dict[tuple[str, ...], str]:
    """Give a letter for each list of transfer syntaxes."""
    lists = dict.fromkeys(tuple(map(str, each.transfer_syntaxes)) for each in [*accepted(), *proposed()])
    return {syntaxes: f"list {chr(ord('A') + number)}" for number, syntaxes in enumerate(lists)}


def render_transfer_syntaxes() -> str:
    """Give the lists of transfer syntaxes that the tables of contexts speak of."""
    groups = _groups()
    uids = dict.fromkeys(uid for syntaxes in groups for uid in syntaxes)
    header = ("transfer syntax", "UID", "lossy", *(name.removeprefix("list ") for name in groups.values()))
    return table(
        header,
        (
            (
                *uid_cells(uid),
                "yes" if uid in LOSSY_TRANSFER_SYNTAXES else "",
                *(str(syntaxes.index(uid) + 1) if uid in syntaxes else "" for syntaxes in groups),
            )
            for uid in uids
        ),
    )
