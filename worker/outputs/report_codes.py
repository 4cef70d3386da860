"""The coded concepts of our reports, and the private coding scheme for what no standard one has a code for.

Standard codes are those that PS3.16 uses: DCM (its annex D), SCT (SNOMED CT) and UCUM. Where they say nothing of what
we measure, a code of the scheme `SCHEME` does; a code, once used, keeps its meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from models.errors import Reason
from models.identity import MANUFACTURER
from models.spine.cobb import Curve
from models.spine.slips import SlipKind
from models.spine.spacing import SpacingSource
from models.tasks import Task
from models.zones import HeartFailureClass, Zone

SCHEME: Final = "99RADSTREAM"
"""Private designators begin with 99 (PS3.3 8.2)."""


def private(value: str, meaning: str) -> Code:
    """Give a code of the private scheme; more than 16 characters become a Long Code Value (PS3.3 8.1)."""
    return Code(value, SCHEME, meaning)


def scheme_identification() -> Dataset:
    """Give the item of Coding Scheme Identification Sequence (PS3.3 C.12.1.1.1) for the private scheme."""
    item = Dataset()
    item.CodingSchemeDesignator = SCHEME
    item.CodingSchemeName = "radstream findings, worker/outputs/report_codes.py"
    item.CodingSchemeResponsibleOrganization = MANUFACTURER
    return item


# Documents

PLAIN_RADIOGRAPHY: Final = Code("168537006", "SCT", "Plain radiography")
COMMENT: Final = Code("121106", "DCM", "Comment")
OVERLAY: Final = private("OVERLAY", "Overlay picture of the finding")

# Units (UCUM)

PERCENT: Final = Code("%", "UCUM", "percent")
DEGREES: Final = Code("deg", "UCUM", "degree")
MILLIMETRES: Final = Code("mm", "UCUM", "mm")
PIXELS: Final = Code("{pixels}", "UCUM", "pixels")
NO_UNITS: Final = Code("1", "UCUM", "no units")

# Two-class tasks

FINDINGS: Final[Mapping[Task, Code]] = {
    Task.PNEUMONIA: Code("233604007", "SCT", "Pneumonia"),
    Task.NORMALITY: private("ABNORMAL", "Abnormality of any kind"),
}
PROBABILITY: Final = Code("122157", "DCM", "Probability")
THRESHOLD: Final = Code("122411", "DCM", "Threshold Value")
PRESENT: Final = Code("52101004", "SCT", "Present")
ABSENT: Final = Code("272519000", "SCT", "Absent")

# Six zones (Congestion Score Index)

CONGESTION: Final = private("CONGESTION", "Pulmonary congestion")
ZONE_SCORE: Final = private("ZONE_SCORE", "Congestion score of a lung zone, 0 to 3")
EXPECTED_SCORE: Final = private("EXPECTED_SCORE", "Mean score by the probabilities of the classes")
ZONE_PROBABILITY: Final = private("CLASS_PROB", "Probability of the class that was called")
MEAN_CSI: Final = private("MEAN_CSI", "Congestion Score Index, mean of gradable zones")
GRADABLE_ZONES: Final = private("GRADABLE_ZONES", "Number of gradable zones")
GRADABILITY: Final = private("GRADABILITY", "Whether the zone can be graded")
UNGRADABLE: Final = private("UNGRADABLE", "Ungradable")
LUNGS_FOUND: Final = private("LUNGS_FOUND", "Whether the lungs were found")
HEART_FAILURE: Final = private("HF_CLASS", "Class of heart failure by the mean")
HEART_FAILURE_CLASSES: Final[Mapping[HeartFailureClass, Code]] = {
    each: private(f"HF_{each.value.upper()}", f"Heart failure class {each.value}") for each in HeartFailureClass
}
YES: Final = Code("373066001", "SCT", "Yes")
NO: Final = Code("373067005", "SCT", "No")
RIGHT: Final = Code("24028007", "SCT", "Right")
LEFT: Final = Code("7771000", "SCT", "Left")
_UPPER: Final = Code("281392002", "SCT", "Upper zone of lung")  # CID 6171
_MIDDLE: Final = Code("281393007", "SCT", "Middle zone of lung")
_LOWER: Final = Code("281394001", "SCT", "Lower zone of lung")
ZONE_SITES: Final[Mapping[Zone, tuple[Code, Code]]] = {
    Zone.RIGHT_SUP: (_UPPER, RIGHT),
    Zone.LEFT_SUP: (_UPPER, LEFT),
    Zone.RIGHT_MID: (_MIDDLE, RIGHT),
    Zone.LEFT_MID: (_MIDDLE, LEFT),
    Zone.RIGHT_INF: (_LOWER, RIGHT),
    Zone.LEFT_INF: (_LOWER, LEFT),
}
"""Anatomic site and the patient's side."""
LUNGS: Final = Code("39607008", "SCT", "Lung")

# Spine

SPINE: Final = Code("421060004", "SCT", "Spine")
VERTEBRA: Final = Code("51282000", "SCT", "Vertebra")
_VERTEBRAE: Final[Mapping[str, str]] = {
    "T1": "64864005",
    "T2": "53733008",
    "T3": "1626008",
    "T4": "73071006",
    "T5": "56401006",
    "T6": "45296009",
    "T7": "62487009",
    "T8": "11068009",
    "T9": "82687006",
    "T10": "7610001",
    "T11": "12989004",
    "T12": "23215003",
    "L1": "66794005",
    "L2": "14293000",
    "L3": "36470004",
    "L4": "11994002",
    "L5": "49668003",
}
_DISCS: Final[Mapping[str, str]] = {
    "T1/T2": "243908006",
    "T2/T3": "243909003",
    "T3/T4": "243910008",
    "T4/T5": "243911007",
    "T5/T6": "243912000",
    "T6/T7": "243913005",
    "T7/T8": "243914004",
    "T8/T9": "243915003",
    "T9/T10": "243916002",
    "T10/T11": "243917006",
    "T11/T12": "243918001",
    "T12/L1": "243926009",
    "L1/L2": "243920003",
    "L2/L3": "243921004",
    "L3/L4": "243922006",
    "L4/L5": "243923001",
    "L5/S1": "243927000",
}
COBB_ANGLE: Final = Code("285285000", "SCT", "Cobb angle")
CURVE: Final = private("CURVE", "Curve of the spine")
CURVES: Final[Mapping[Curve, Code]] = {
    each: private(f"CURVE_{each.value.upper()}", f"{each.value.capitalize()} curve") for each in Curve
}
UPPER_END: Final = private("UPPER_END", "Upper end vertebra")
LOWER_END: Final = private("LOWER_END", "Lower end vertebra")
CONFIDENCE: Final = private("CONFIDENCE", "Least confidence of the landmarks")
MEAN_CONFIDENCE: Final = private("MEAN_CONFIDENCE", "Mean confidence of the landmarks")
REVIEW: Final = private("REVIEW", "A person should look at it")
REVIEW_REASON: Final = private("REVIEW_REASON", "Why a person should look at it")
HEIGHT_LEFT: Final = private("HEIGHT_LEFT", "Height at the left side of the image")
HEIGHT_RIGHT: Final = private("HEIGHT_RIGHT", "Height at the right side of the image")
ANTERIOR_SIDE: Final = private("ANTERIOR_SIDE", "Side of the image at which the patient's front is")
IMAGE_LEFT: Final = private("IMAGE_LEFT", "Left side of the image")
IMAGE_RIGHT: Final = private("IMAGE_RIGHT", "Right side of the image")
SLIP: Final = private("SLIP", "Slip of a vertebra on the next lower one")
SLIP_PERCENT: Final = private("SLIP_PERCENT", "Slip in lengths of the lower end plate")
SLIP_OFFSET: Final = private("SLIP_OFFSET", "Slip along the lower end plate")
SLIP_ANGLE: Final = private("SLIP_ANGLE", "Angle between the end plates")
SLIP_KIND: Final = private("SLIP_KIND", "Direction of the slip")
SLIP_KINDS: Final[Mapping[SlipKind, Code]] = {
    SlipKind.NORMAL: private("SLIP_NORMAL", "No slip"),
    SlipKind.LEFT_LATEROLISTHESIS: private("SLIP_LEFT", "Left laterolisthesis"),
    SlipKind.RIGHT_LATEROLISTHESIS: private("SLIP_RIGHT", "Right laterolisthesis"),
    SlipKind.ANTEROLISTHESIS: private("SLIP_ANTERIOR", "Anterolisthesis"),
    SlipKind.RETROLISTHESIS: private("SLIP_POSTERIOR", "Retrolisthesis"),
}
MEYERDING: Final = private("MEYERDING", "Meyerding grade, 0 to 5")
SPACING: Final = private("SPACING", "What says how large a pixel is")


def spaced_by(source: SpacingSource) -> Code:
    """Give the code of what says how large a pixel is."""
    return private(source.value, source.value.replace("_", " ").capitalize())


def vertebra(name: str) -> Code:
    """Give the code of a vertebra; one of a column whose levels are not known (V1 and so on) gets a private one."""
    if name == "S1":
        return private("S1", "First sacral vertebra")
    value = _VERTEBRAE.get(name)
    return (
        private(name, f"Vertebra {name[1:]} from the top, level unknown")
        if value is None
        else Code(value, "SCT", f"{name} vertebra")
    )


def disc(upper: str, lower: str) -> Code:
    """Give the code of the disc between two vertebrae."""
    value = _DISCS.get(f"{upper}/{lower}")
    if value is None:
        return private(f"{upper}/{lower}", f"Disc between vertebrae {upper} and {lower}")
    return Code(value, "SCT", f"Level of {upper}/{lower} intervertebral disc")


def reviewed_for(reason: str) -> Code:
    """Give the code of why a person should look at it: a `ReviewReason` or an `Implausible`."""
    return private(reason, reason.replace("_", " ").capitalize())


# Not analysed

ANALYSIS: Final = private("ANALYSIS", "Outcome of the analysis")
SKIPPED: Final = private("SKIPPED", "Not analysed: no task applies")
FAILED: Final = private("FAILED", "Not analysed: the analysis failed")
NOT_ANALYSED_REASON: Final = private("REASON", "Why the image was not analysed")
_REASONS: Final[Mapping[Reason, str]] = {
    Reason.NO_RULE_MATCHED: "No routing rule names a task for it",
    Reason.EXCLUDED_BY_RULE: "A routing rule excludes it",
    Reason.NOT_A_RADIOGRAPH: "It is no radiograph",
    Reason.OWN_OUTPUT: "It is an output of this software",
    Reason.NO_ACTIVE_VERSION: "No network of its task is in service",
    Reason.MALFORMED_DATASET: "Its dataset is malformed",
    Reason.UID_MISMATCH: "Its UID is not the one that it was sent under",
    Reason.NO_PIXEL_DATA: "It has no pixel data",
    Reason.UNSUPPORTED_TRANSFER_SYNTAX: "Its transfer syntax cannot be read",
    Reason.UNSUPPORTED_PIXELS: "Its pixels are of a kind that cannot be read",
    Reason.TOO_LARGE: "It is too large",
    Reason.UNDECODABLE_PIXELS: "Its pixel data cannot be decoded",
    Reason.DECODE_TIMEOUT: "Decoding it took too long",
    Reason.DECODER_CRASHED: "Decoding it crashed",
    Reason.WORKER_DIED: "Analysing it ended the software, several times",
    Reason.SPOOL_FILE_MISSING: "Its file is gone",
    Reason.ENGINE_UNAVAILABLE: "The network could not be run",
    Reason.INTERNAL_ERROR: "An error of this software",
}


def reason_code(reason: Reason) -> Code:
    """Give the code of why an instance was not analysed: the reason of the records, in words."""
    return private(reason.value, _REASONS.get(reason, reason.value.replace("_", " ").capitalize()))


def made_codes() -> tuple[Code, ...]:
    """Give the codes that the functions of this module make, but for those of vertebrae whose levels are not known."""
    places = [*map(vertebra, (*_VERTEBRAE, "S1")), *(disc(*name.split("/")) for name in _DISCS)]
    return (*places, *map(spaced_by, SpacingSource), *map(reason_code, _REASONS))
