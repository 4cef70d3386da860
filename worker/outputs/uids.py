"""UIDs of outputs: the same source, task, version and revision always give the same object.

A UID is made from a name-based UUID (RFC 9562, version 5) under the root 2.25 (PS3.5 annex B.2).
"""

from __future__ import annotations

from typing import Final
from uuid import UUID, uuid5

from pydicom.uid import UID

_NAMESPACE: Final = UUID("24d44a6f-a21e-4387-bc91-f314be447ca2")


def instance_uid(kind: str, source_sop_instance_uid: str, task: str, version: str, revision: int) -> UID:
    """SOP Instance UID of an output of one source instance.

    Bytes that replaced others under the same source UID (`revision` above 0) give another picture, hence another
    object.
    """
    return _derive("instance", kind, source_sop_instance_uid, task, version, *([str(revision)] if revision else []))


def series_uid(kind: str, study_instance_uid: str, series_instance_uid: str, task: str, version: str) -> UID:
    """Series Instance UID: one series per source series, kind of output, task and model version.

    Laterality and body part belong to a series (PS3.3 C.7.3.1); outputs of two source series may differ in them.
    """
    return _derive("series", kind, study_instance_uid, series_instance_uid, task, version)


def study_uid(source_sop_instance_uid: str) -> UID:
    """Study Instance UID for outputs of an instance that has no usable one itself."""
    return _derive("study", source_sop_instance_uid)


def frame_of_reference_uid(source_sop_instance_uid: str, revision: int) -> UID:
    """Frame of Reference UID of the plane of an image that has none itself, as projections do."""
    return _derive("frame of reference", source_sop_instance_uid, *([str(revision)] if revision else []))


def dimension_organization_uid(kind: str) -> UID:
    """Dimension Organization UID: all outputs of a kind have the same dimensions."""
    return _derive("dimension organization", kind)


def source_series_uid(source_sop_instance_uid: str) -> UID:
    """Series Instance UID by which outputs name the series of an instance that has no usable one itself."""
    return _derive("source series", source_sop_instance_uid)


def device_uid(engine_sha256: str) -> UID:
    """Device UID of an engine: it changes with every retraining and every rebuild."""
    return _derive("device", engine_sha256)


def tracking_uid(source_sop_instance_uid: str, task: str, name: str) -> UID:
    """Tracking Unique Identifier of what is measured in one source instance, whichever version measures it."""
    return _derive("tracking", source_sop_instance_uid, task, name)


def _derive(*parts: str) -> UID:
    return UID(f"2.25.{uuid5(_NAMESPACE, '|'.join(parts)).int}")
