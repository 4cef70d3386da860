"""A study summary in words of ASCII, for whoever opens it in a viewer that knows no codes. Nothing of the patient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from models.records.trend import Measure
from worker.outputs import summary_codes
from worker.outputs.common_modules import plain
from worker.outputs.summary_groups import not_analysed
from worker.study_summary import StudyFacts, Trend

_LONGEST: Final = 10_000
_FOLLOWED: Final = {Measure.CSI_MEAN: ("mean CSI", ""), Measure.COBB_MAIN: ("main Cobb angle", " deg")}


def words_of(facts: StudyFacts) -> str:
    """Give one sentence for each thing that the summary says."""
    return plain(" ".join(_sentences(facts)), _LONGEST)


def _sentences(facts: StudyFacts) -> Iterator[str]:
    counts = ((word, facts.count(*states)) for word, (_, states) in summary_codes.COUNTED.items())
    told = ", ".join(f"{count} {word}" for word, count in counts if count or word == "analysed")
    yield f"Instances of the study: {len(facts.instances)}; {told}."
    for (state, reason), instances in not_analysed(facts).items():
        yield f"{state.value.capitalize()}, which says nothing about the patient: {reason} ({len(instances)})."
    for each in facts.classes:
        origin = each.origin
        yield (
            f"{origin.task.value} {origin.version}: {each.label}, highest probability {each.probability:.3f} "
            f"(threshold {each.threshold:.3f})."
        )
    if facts.congestion is not None:
        yield from _of_congestion(facts)
    if facts.spine is not None:
        yield from _of_spine(facts)
    yield from (_of_trend(trend) for trend in facts.trends)


def _of_congestion(facts: StudyFacts) -> Iterator[str]:
    worst = facts.congestion
    if worst is None or worst.mean_csi is None or worst.heart_failure_class is None:
        yield "csi: no zone could be graded."
        return
    yield (
        f"csi {worst.origin.version}: highest mean CSI {worst.mean_csi:.2f}, heart failure class "
        f"{worst.heart_failure_class.value}, {worst.gradable_zones} of 6 zones gradable."
    )


def _of_spine(facts: StudyFacts) -> Iterator[str]:
    for each in facts.curves:
        yield (
            f"landmarks {each.origin.version}: {each.curve.value} curve {each.degrees:.1f} deg, "
            f"{each.upper_vertebra} to {each.lower_vertebra}."
        )
    if (slip := facts.slip) is not None:
        ends = f"{slip.upper_vertebra}/{slip.lower_vertebra}"
        yield f"landmarks {slip.origin.version}: {slip.kind.value} of {ends}, {slip.percent:.1f} percent."
    if facts.spine is not None and facts.spine.to_review:
        yield f"A person should look at the landmarks of {facts.spine.to_review} instances."


def _of_trend(trend: Trend) -> str:
    name, unit = _FOLLOWED[trend.measure]
    earlier = ", ".join(f"{each.study_date.isoformat()} {each.value:.2f}{unit}" for each in trend.priors)
    change = "another version measured the last of them"
    if trend.change is not None:
        change = f"change since the last {trend.change:+.2f}{unit}"
    return f"Earlier {name}: {earlier}; now {trend.value:.2f}{unit}, {change}."
