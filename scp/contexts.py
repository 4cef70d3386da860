"""Presentation contexts: what the SCP accepts, and in which transfer syntax."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pydicom import uid
from pynetdicom import AllStoragePresentationContexts, build_context
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification  # type: ignore[attr-defined]

from models.pixels.syntaxes import DECODABLE_TRANSFER_SYNTAXES

RADIOGRAPH_SOP_CLASSES: Final[tuple[uid.UID, ...]] = (
    uid.ComputedRadiographyImageStorage,
    uid.DigitalXRayImageStorageForPresentation,
    uid.DigitalXRayImageStorageForProcessing,
    # Many senders wrap radiographs in Secondary Capture.
    uid.SecondaryCaptureImageStorage,
    uid.MultiFrameSingleBitSecondaryCaptureImageStorage,
    uid.MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    uid.MultiFrameTrueColorSecondaryCaptureImageStorage,
)
"""Storage classes (PS3.4 B.5) that carry radiographs."""

COMMITMENT_TRANSFER_SYNTAXES: Final = (
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
)
"""A commitment request is a small dataset of text: the three uncompressed syntaxes of old are enough."""


def storage_classes(accept_all_storage: bool) -> list[uid.UID]:
    """Give the storage classes that are accepted, by C-STORE and by STOW-RS."""
    if not accept_all_storage:
        return list(RADIOGRAPH_SOP_CLASSES)
    known = [context.abstract_syntax for context in AllStoragePresentationContexts]
    return list(dict.fromkeys([*RADIOGRAPH_SOP_CLASSES, *(syntax for syntax in known if syntax is not None)]))


def supported_contexts(accept_all_storage: bool, commitment: bool = False) -> list[PresentationContext]:
    """Give the contexts of the acceptor: C-ECHO, storage in every decodable transfer syntax, storage commitment."""
    storage = [
        build_context(sop_class, list(DECODABLE_TRANSFER_SYNTAXES)) for sop_class in storage_classes(accept_all_storage)
    ]
    others = [build_context(Verification)]
    if commitment:
        push = build_context(StorageCommitmentPushModel, list(COMMITMENT_TRANSFER_SYNTAXES))
        # Who asks is the SCU of the service, and needs no role for it; who reports on a new association is its SCP.
        push.scu_role = push.scp_role = True
        others.append(push)
    return [*others, *storage]


def prefer_senders_order(proposed: Iterable[PresentationContext]) -> None:
    """Leave in each proposed context only the first transfer syntax that we decode.

    Of several syntaxes in one context an acceptor takes one (PS3.8 9.3.3.2), and the sender must transcode to it. A
    sender that holds a compressed file lists its own syntax first; taking our favourite instead would have it
    decompressed, and a lossy one re-labelled. Contexts without a decodable syntax are left, to be rejected.
    """
    for context in proposed:
        decodable = [syntax for syntax in context.transfer_syntax if syntax in DECODABLE_TRANSFER_SYNTAXES]
        if decodable:
            context.transfer_syntax = [decodable[0]]
