"""The data dictionary: each column of the analysts' views, in one table that documents, exports and tests share.

`python -m deploy.data_dictionary` writes it as `deploy/data_dictionary.md`. A test holds it against the views of both
databases: a column that is not described here fails, and so does one whose values are not of the type that stands here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from models.zones import ZONES


class ValueType(StrEnum):
    """What the values of a column are."""

    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    DATE = "date"
    TIME = "time"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a view.

    Attributes:
        unit: of its values, or the set that they are of; empty for plain text.
        null: what null means; empty where it is never null.
        identifying: tells who a patient is, or links what is known of one; exports leave it out unless asked.
    """

    name: str
    type: ValueType
    unit: str
    meaning: str
    null: str = ""
    identifying: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """One view.

    Attributes:
        row: what a row is.
        moment: the column that says when, by which exports are ordered and cut.
    """

    name: str
    row: str
    moment: str
    columns: tuple[Column, ...]

    def column(self, name: str) -> Column | None:
        """Give a column by name, None where there is none."""
        return next((column for column in self.columns if column.name == name), None)


_TEXT, _INTEGER, _NUMBER = ValueType.TEXT, ValueType.INTEGER, ValueType.NUMBER
_BOOLEAN, _DATE, _TIME = ValueType.BOOLEAN, ValueType.DATE, ValueType.TIME

_ABSENT: Final = "absent in the header, or not stored by `RADSTREAM_PHI`"
_UNREAD: Final = "not read yet, or unreadable"
_NO_TERM: Final = f"absent, {_UNREAD}, or no known term where `RADSTREAM_PHI` protects"
_NOT_ANALYSED: Final = "not analysed; `state` and `reason` say why"
_NONE_ANALYSED: Final = "no instance was analysed"
_PROBABILITY: Final = "0 to 1"

_IDENTITY: Final = (
    Column("accession_number", _TEXT, "", "Accession Number (0008,0050), or its keyed hash.", _ABSENT, True),
    Column("study_date", _DATE, "as sent", "Study Date (0008,0020).", _ABSENT, True),
    Column("patient_id", _TEXT, "", "Patient ID (0010,0020), or a keyed hash of it and its issuer.", _ABSENT, True),
)
_ISSUER: Final = Column(
    "patient_id_issuer",
    _TEXT,
    "",
    "Issuer of Patient ID (0010,0021). A patient is the same where this and `patient_id` are.",
    f"{_ABSENT}; always where `patient_id` is a hash, which has the issuer in it",
    True,
)

_ZONE_SCORES: Final = tuple(
    Column(
        f"csi_{zone}",
        _INTEGER,
        "0 normal, 1 mild, 2 moderate, 3 severe",
        f"Congestion score of the zone {zone.replace('_', ' ')}; sides are the patient's.",
        "ungradable where `csi_version` is set, else not analysed",
    )
    for zone in ZONES
)

INSTANCE_FINDINGS: Final = View(
    "instance_findings",
    "One accepted instance, also a skipped or failed one; of each task the answer that was inferred last.",
    "received_at",
    (
        Column("study_instance_uid", _TEXT, "UID", "Study Instance UID (0020,000D).", _UNREAD),
        *_IDENTITY,
        Column("series_instance_uid", _TEXT, "UID", "Series Instance UID (0020,000E).", _UNREAD),
        Column("modality", _TEXT, "defined term", "Modality (0008,0060).", _NO_TERM),
        Column("body_part_examined", _TEXT, "defined term", "Body Part Examined (0018,0015).", _NO_TERM),
        Column("view_position", _TEXT, "defined term", "View Position (0018,5101).", _NO_TERM),
        Column("sop_instance_uid", _TEXT, "UID", "SOP Instance UID (0008,0018)."),
        Column("calling_ae_title", _TEXT, "AE title", "Who sent it."),
        Column("lane", _TEXT, "stat, routine", "How urgent it was."),
        Column("state", _TEXT, "received, queued, done, skipped, failed", "Where it is; the last three are final."),
        Column("reason", _TEXT, "code", "Why it was skipped or failed.", "it is done, or on its way"),
        Column("received_at", _TIME, "UTC", "When Success was answered to its sender."),
        Column("settled_at", _TIME, "UTC", "When its findings, or their absence, were recorded.", "on its way"),
        Column(
            "delivered_at",
            _TIME,
            "UTC",
            "When the last of its outputs reached its last destination.",
            "not yet, or it has none",
        ),
        Column("pneumonia_version", _TEXT, "version", "Model version that answered.", _NOT_ANALYSED),
        Column("pneumonia_probability", _NUMBER, _PROBABILITY, "Calibrated probability of pneumonia.", _NOT_ANALYSED),
        Column("pneumonia_threshold", _NUMBER, _PROBABILITY, "Decision threshold of that version.", _NOT_ANALYSED),
        Column("pneumonia_label", _TEXT, "label", "Label decided for.", _NOT_ANALYSED),
        Column("pneumonia_positive", _BOOLEAN, "", "The probability is at or above the threshold.", _NOT_ANALYSED),
        Column("csi_version", _TEXT, "version", "Model version that answered.", _NOT_ANALYSED),
        Column(
            "csi_mean",
            _NUMBER,
            "0 to 3",
            "Mean score of the gradable zones.",
            f"no zone is gradable, or {_NOT_ANALYSED}",
        ),
        Column("csi_gradable_zones", _INTEGER, "zones, 0 to 6", "How many have a score.", _NOT_ANALYSED),
        Column(
            "heart_failure_class",
            _TEXT,
            "low, medium, high",
            "By `csi_mean`: low to 1.3, medium to 2.2, high above.",
            f"no zone is gradable, or {_NOT_ANALYSED}",
        ),
        Column(
            "csi_lungs_found",
            _BOOLEAN,
            "",
            "The zones divide the lungs; else the whole image, as they were not found.",
            _NOT_ANALYSED,
        ),
        *_ZONE_SCORES,
        Column("landmarks_version", _TEXT, "version", "Model version that answered.", _NOT_ANALYSED),
        Column("landmarks_confidence", _NUMBER, _PROBABILITY, "Mean confidence of all landmarks.", _NOT_ANALYSED),
        Column("landmarks_review", _BOOLEAN, "", "A person should look before it is believed.", _NOT_ANALYSED),
        Column(
            "landmarks_review_reasons",
            _TEXT,
            "codes, with commas",
            "Why.",
            f"no review is asked for, or {_NOT_ANALYSED}",
        ),
        Column("cobb_main", _NUMBER, "degrees", "Main Cobb angle.", f"a vertebra is missing, or {_NOT_ANALYSED}"),
        Column("cobb_main_upper_vertebra", _TEXT, "T1 to L5", "Where the main curve begins.", "as `cobb_main`"),
        Column("cobb_main_lower_vertebra", _TEXT, "T1 to L5", "Where it ends.", "as `cobb_main`"),
        Column("cobb_upper", _NUMBER, "degrees", "Cobb angle of the curve above the main one.", "as `cobb_main`"),
        Column("cobb_lower", _NUMBER, "degrees", "Cobb angle of the curve below it.", "as `cobb_main`"),
        _ISSUER,
        Column("received_day", _DATE, "UTC", "Day of `received_at`."),
        Column("received_week", _DATE, "UTC", "Monday of the week of `received_at`."),
        Column("queued_at", _TIME, "UTC", "When it was first queued for inference.", "not yet, or settled unqueued"),
        Column("inferred_at", _TIME, "UTC", "When the networks had answered.", "not analysed"),
        Column(
            "committed_at", _TIME, "UTC", "When the archive had committed to its outputs.", "not yet, or never asked"
        ),
        Column("settle_latency_s", _NUMBER, "seconds", "From `received_at` to `settled_at`.", "on its way"),
        Column("delivery_latency_s", _NUMBER, "seconds", "From `received_at` to `delivered_at`.", "as `delivered_at`"),
        Column("revision", _INTEGER, "times", "How often other bytes under its UID replaced the result."),
        Column("duplicates", _INTEGER, "times", "How often the same bytes came again."),
        Column("conflicts", _INTEGER, "times", "How often other bytes came under its UID."),
        Column(
            "reason_detail",
            _TEXT,
            "",
            "More of the reason, in our own words, never a value of the header.",
            "nothing to add",
        ),
        Column("normality_version", _TEXT, "version", "Model version that answered.", _NOT_ANALYSED),
        Column(
            "normality_probability",
            _NUMBER,
            _PROBABILITY,
            "Calibrated probability of its positive label.",
            _NOT_ANALYSED,
        ),
        Column("normality_threshold", _NUMBER, _PROBABILITY, "Decision threshold of that version.", _NOT_ANALYSED),
        Column("normality_label", _TEXT, "label", "Label decided for.", _NOT_ANALYSED),
        Column("normality_positive", _BOOLEAN, "", "The probability is at or above the threshold.", _NOT_ANALYSED),
    ),
)

_ONE_VERSION: Final = "no instance was analysed, or several versions answered"

STUDY_FINDINGS: Final = View(
    "study_findings",
    "One study, with the worst finding of its instances. One whose header could not be read belongs to no study.",
    "first_received_at",
    (
        Column("study_instance_uid", _TEXT, "UID", "Study Instance UID (0020,000D)."),
        *_IDENTITY,
        Column("instances", _INTEGER, "instances", "Accepted and read so far."),
        Column("instances_done", _INTEGER, "instances", "Analysed."),
        Column("instances_skipped", _INTEGER, "instances", "Left out by a rule, or none of ours to analyse."),
        Column("instances_failed", _INTEGER, "instances", "That could not be analysed."),
        Column("instances_waiting", _INTEGER, "instances", "On their way."),
        Column("first_received_at", _TIME, "UTC", "When the first of them was received."),
        Column("last_settled_at", _TIME, "UTC", "When the last of them was settled.", "none is"),
        Column("pneumonia_probability", _NUMBER, _PROBABILITY, "The highest.", _NONE_ANALYSED),
        Column("pneumonia_positive", _INTEGER, "1 or 0", "Whether any is positive.", _NONE_ANALYSED),
        Column(
            "csi_mean", _NUMBER, "0 to 3", "The highest mean score.", f"{_NONE_ANALYSED}, or none has a gradable zone"
        ),
        Column("heart_failure_class", _TEXT, "low, medium, high", "The worst.", "as `csi_mean`"),
        Column(
            "cobb_main", _NUMBER, "degrees", "The largest main Cobb angle.", f"{_NONE_ANALYSED}, or none has an angle"
        ),
        Column("landmarks_review", _INTEGER, "1 or 0", "Whether a person should look at any.", _NONE_ANALYSED),
        _ISSUER,
        Column("pneumonia_version", _TEXT, "version", "The one that answered for all of them.", _ONE_VERSION),
        Column("csi_version", _TEXT, "version", "The one that answered for all of them.", _ONE_VERSION),
        Column("landmarks_version", _TEXT, "version", "The one that answered for all of them.", _ONE_VERSION),
        Column("instances_delivered", _INTEGER, "instances", "Whose outputs have all arrived everywhere."),
        Column("instances_committed", _INTEGER, "instances", "To whose outputs the archive has committed."),
        Column("last_delivered_at", _TIME, "UTC", "When outputs last arrived.", "none did"),
        Column("last_committed_at", _TIME, "UTC", "When the archive last committed.", "it did not, or was not asked"),
        Column("normality_probability", _NUMBER, _PROBABILITY, "The highest.", _NONE_ANALYSED),
        Column("normality_positive", _INTEGER, "1 or 0", "Whether any is positive.", _NONE_ANALYSED),
    ),
)

_NONE_SETTLED: Final = "none is settled"
_NONE_DELIVERED: Final = "none is delivered"

DAILY_VOLUME: Final = View(
    "daily_volume",
    "What one sender sent of one modality on one UTC day, counted by where it is now.",
    "day",
    (
        Column("day", _DATE, "UTC", "Day of receipt."),
        Column("modality", _TEXT, "defined term", "Modality (0008,0060).", _NO_TERM),
        Column("calling_ae_title", _TEXT, "AE title", "Who sent it."),
        Column("received", _INTEGER, "instances", "Accepted: the sum of the next four."),
        Column("waiting", _INTEGER, "instances", "On their way."),
        Column("done", _INTEGER, "instances", "Analysed."),
        Column("skipped", _INTEGER, "instances", "Left out by a rule, or none of ours to analyse."),
        Column("failed", _INTEGER, "instances", "That could not be analysed."),
        Column("stat", _INTEGER, "instances", "Of the accepted ones, those that were urgent."),
        Column("duplicates", _INTEGER, "receipts", "Same bytes again, beside `received`."),
        Column("conflicts", _INTEGER, "receipts", "Other bytes under a known UID, beside `received`."),
        Column("delivered", _INTEGER, "instances", "Whose outputs have all arrived everywhere."),
        Column("settle_latency_mean_s", _NUMBER, "seconds", "Mean time from receipt to settled.", _NONE_SETTLED),
        Column("settle_latency_max_s", _NUMBER, "seconds", "Longest time from receipt to settled.", _NONE_SETTLED),
        Column("delivery_latency_mean_s", _NUMBER, "seconds", "Mean time from receipt to delivered.", _NONE_DELIVERED),
        Column(
            "delivery_latency_max_s", _NUMBER, "seconds", "Longest time from receipt to delivered.", _NONE_DELIVERED
        ),
    ),
)

_CLASSES_ONLY: Final = "the task has no positive label (`csi`, `landmarks`)"
_NO_SCORE: Final = "no answer has a score"

MODEL_PERFORMANCE: Final = View(
    "model_performance",
    "What one version of a task answered in one UTC month, also where a newer answer has followed. The database does "
    "not know the truth: this tells drift, load and disagreement, never how often a version is right.",
    "month",
    (
        Column("task", _TEXT, "pneumonia, normality, csi, landmarks", "Task."),
        Column("version", _TEXT, "version", "Model version that answered; one in the shadow answers nobody."),
        Column("month", _DATE, "UTC", "First day of the month of inference."),
        Column("month_number", _INTEGER, "months", "Year x 12 + month: the month before has one less."),
        Column("answers", _INTEGER, "answers", "One per instance."),
        Column("positive", _INTEGER, "answers", "That are positive.", _CLASSES_ONLY),
        Column("positive_share", _NUMBER, _PROBABILITY, "Share of the answers that are positive.", _CLASSES_ONLY),
        Column("without_score", _INTEGER, "answers", "Without a gradable zone (`csi`); 0 for the other tasks."),
        Column(
            "score_mean",
            _NUMBER,
            "0 to 1",
            "Mean score: probability, mean CSI / 3, or mean confidence of landmarks.",
            _NO_SCORE,
        ),
        Column("score_min", _NUMBER, "0 to 1", "Lowest score.", _NO_SCORE),
        Column("score_max", _NUMBER, "0 to 1", "Highest score.", _NO_SCORE),
        Column(
            "review_share",
            _NUMBER,
            "0 to 1",
            "Share that a person should look at.",
            "the task asks for none (all but `landmarks`)",
        ),
        Column(
            "infer_to_settle_mean_s",
            _NUMBER,
            "seconds",
            "Mean time from inference to settled.",
            "all answers came by backfill",
        ),
        Column(
            "infer_to_settle_max_s",
            _NUMBER,
            "seconds",
            "Longest time from inference to settled.",
            "all answers came by backfill",
        ),
        Column(
            "shadow_compared",
            _INTEGER,
            "answers",
            "That a version in the shadow gave beside it, by the same month.",
            "no shadow ran",
        ),
        Column(
            "shadow_agreement",
            _NUMBER,
            "0 to 1",
            "Share of these that say the same: label, six scores, or review.",
            "no shadow ran",
        ),
    ),
)

DICTIONARY: Final[Mapping[str, View]] = {
    view.name: view for view in (INSTANCE_FINDINGS, STUDY_FINDINGS, DAILY_VOLUME, MODEL_PERFORMANCE)
}
"""By the name of the view, in the order of `models.records.views.VIEWS`."""
