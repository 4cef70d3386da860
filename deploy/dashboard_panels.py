"""What the dashboards show: a table of panels over the metrics of the code.

A panel names metrics; its description is their help text, and a name or label that the code does not have is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from deploy.metric_catalogue import Family, catalogue

WINDOW: Final = "[$__rate_interval]"
QUANTILES: Final = (0.5, 0.95, 0.99)
PER_MINUTE: Final = "suffix:/min"
NEVER: Final = "None since the processes started"
UNUSED: Final = "Nobody uses it"
GIB: Final = 2**30

Thresholds = tuple[tuple[float, str], ...]
"""From each value on, the colour; below the first it is green, or what is said for minus infinity."""


@dataclass(frozen=True, slots=True)
class Query:
    """One line of a panel: an expression of Prometheus, and what its series are called."""

    expression: str
    legend: str
    families: tuple[Family, ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    Attributes:
        unit: Grafana's identifier of a unit.
        kind: Grafana's type of panel.
        reaches: the vertical axis goes at least so far, so that a small value does not look large, nor zero like noise.
        nothing: what an empty panel says.
    """

    title: str
    unit: str
    queries: tuple[Query, ...]
    thresholds: Thresholds = ()
    kind: str = "timeseries"
    stacked: bool = False
    reaches: float | None = None
    nothing: str = "No data"


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One dashboard: rows of panels under a heading."""

    name: str
    title: str
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]


def _family(name: str, kind: str, labels: tuple[str, ...] = ()) -> Family:
    family = catalogue().get(name)
    if family is None or family.kind != kind:
        raise LookupError(f"{name}: the code has no {kind} of this name")
    if missing := set(labels) - {*family.labels, "instance", "job"}:
        raise LookupError(f"{name}: the code has no label {sorted(missing)}")
    return family


def _legend(by: tuple[str, ...], otherwise: str) -> str:
    return " ".join("{{" + label + "}}" for label in by) or otherwise


def _selector(name: str, matcher: str = "") -> str:
    return f'{name}{{instance=~"$instance"{", " + matcher if matcher else ""}}}'


def rate(name: str, *by: str, legend: str = "") -> Query:
    """What a counter gains in a second."""
    family = _family(name, "counter", by)
    expression = f"sum by ({', '.join(by)}) (rate({_selector(name)}{WINDOW}))"
    return Query(expression, legend or _legend(by, "all"), (family,))


def per_minute(name: str, *by: str, legend: str = "") -> Query:
    """Events in a minute: of radiographs there are few in a second. Of several kinds, those that ever happened."""
    each = rate(name, *by, legend=legend)
    happened = f" and sum by ({', '.join(by)}) ({_selector(name)}) > 0" if by and by != ("instance",) else ""
    return Query(f"{each.expression} * 60{happened}", each.legend, each.families)


def total(name: str, *by: str, over: str = "1d", legend: str = "") -> Query:
    """Events within a time; of a series that is younger, also its first ones, which increase() does not see."""
    family = _family(name, "counter", by)
    now, gained = _selector(name), f"increase({_selector(name)}[{over}])"
    expression = f"sum by ({', '.join(by)}) (({now} unless {now} offset {over}) > {gained} or {gained})"
    return Query(expression, legend or _legend(by, "all"), (family,))


def gauge(name: str, *by: str, combine: str = "sum", legend: str = "") -> Query:
    """A state now."""
    family = _family(name, "gauge", by)
    return Query(f"{combine} by ({', '.join(by)}) ({_selector(name)})", legend or _legend(by, "all"), (family,))


def quantiles(name: str, *by: str, at: tuple[float, ...] = QUANTILES) -> tuple[Query, ...]:
    """Quantiles of a histogram, one line each."""
    family = _family(name, "histogram", by)
    inner = f"sum by ({', '.join((*by, 'le'))}) (rate({_selector(name + '_bucket')}{WINDOW}))"
    return tuple(
        Query(f"histogram_quantile({q}, {inner})", f"{_legend(by, '')} {q:.0%}".strip(), (family,)) for q in at
    )


def mean(name: str, *by: str, over: str = WINDOW.strip("[]"), legend: str = "") -> Query:
    """Mean of a histogram."""
    family = _family(name, "histogram", by)
    sums = (f"sum by ({', '.join(by)}) (increase({_selector(f'{name}_{part}')}[{over}]))" for part in ("sum", "count"))
    return Query(" / ".join(sums), legend or _legend(by, "mean"), (family,))


def share_above(name: str, bound: str, *by: str, over: str, offset: str = "", legend: str = "") -> Query:
    """Share of a histogram's observations above one of its bounds."""
    family = _family(name, "histogram", by)
    window = f"[{over}]{' offset ' + offset if offset else ''}"
    below = _selector(f"{name}_bucket", f'le="{bound}"')
    parts = (f"sum by ({', '.join(by)}) (increase({series}{window}))" for series in (below, _selector(f"{name}_count")))
    return Query("1 - " + " / ".join(parts), f"{_legend(by, 'all')} {legend}".strip(), (family,))


def _stat(title: str, unit: str, query: Query, *thresholds: tuple[float, str]) -> Panel:
    return Panel(title, unit, (query,), thresholds, kind="stat")


def _up(title: str, name: str) -> Panel:
    return _stat(title, "bool_yes_no", gauge(name, "instance", combine="min"), (float("-inf"), "red"), (1, "green"))


def feed() -> Dashboard:
    """What arrives, and how far it is."""
    scp, worker = "radstream_scp", "radstream_worker"
    now = (
        _stat("Receivers", "short", gauge(f"{scp}_receivers", "instance"), (float("-inf"), "red"), (1, "green")),
        _up("Database, of the SCP", f"{scp}_database_up"),
        _up("Redis, of the SCP", f"{scp}_redis_up"),
        _up("Object store, of the SCP", f"{scp}_object_store_up"),
        _up("Database, of the worker", f"{worker}_database_up"),
        _up("Redis, of the worker", f"{worker}_redis_up"),
        _up("Object store, of the worker", f"{worker}_object_store_up"),
        _stat("Open associations", "short", gauge(f"{scp}_open_associations", "instance")),
    )
    reception = (
        Panel("Instances answered", PER_MINUTE, (per_minute(f"{scp}_instances_total", "status"),), stacked=True),
        Panel("Bytes accepted", "Bps", (rate(f"{scp}_bytes_total", "instance"),)),
        Panel("Time to store", "s", quantiles(f"{scp}_store_seconds"), ((1, "orange"), (5, "red"))),
        Panel("Associations ended", PER_MINUTE, (per_minute(f"{scp}_associations_total", "outcome"),), stacked=True),
        Panel(
            "STOW-RS answers",
            PER_MINUTE,
            (per_minute(f"{scp}_stow_requests_total", "code"),),
            stacked=True,
            nothing=UNUSED,
        ),
        Panel(
            "Storage commitment for senders",
            PER_MINUTE,
            (
                per_minute(f"{scp}_commitment_requests_total", legend="asked"),
                per_minute(f"{scp}_commitment_reports_total", "outcome"),
            ),
            reaches=1,
        ),
    )
    oldest = gauge(f"{scp}_spool_oldest_seconds", "instance", combine="max")
    free = gauge(f"{scp}_spool_free_bytes", "instance", combine="min")
    backlog = (
        Panel(
            "Unfinished instances",
            "short",
            (gauge(f"{scp}_spool_pending", "instance"),),
            ((80_000, "red"),),
            reaches=10,
        ),
        Panel("Age of the oldest unfinished", "s", (oldest,), ((900, "orange"), (1800, "red")), reaches=60),
        Panel("Free on the disk of the spool", "bytes", (free,), _from_low((2 * GIB, "orange"), (10 * GIB, "green"))),
        Panel("Jobs by queue", "short", (gauge("radstream_queue_depth", "queue", "state", combine="max"),), reaches=10),
        Panel("From durable to queued", "s", quantiles(f"{scp}_registrar_lag_seconds"), ((10, "red"),)),
        Panel(
            "Found by sweeps",
            PER_MINUTE,
            (
                per_minute(f"{scp}_swept_instances_total", legend="queued by a sweep"),
                per_minute(f"{scp}_notices_dropped_total", legend="left to the sweeper"),
                per_minute(f"{scp}_sweeps_total", legend="sweeps"),
            ),
        ),
        Panel(
            "Object store, 95 %",
            "s",
            quantiles(f"{worker}_object_store_seconds", "operation", at=(0.95,)),
            nothing=UNUSED,
        ),
    )
    answers = (
        Panel(
            "Instances settled",
            PER_MINUTE,
            (per_minute(f"{worker}_instances_total", "outcome", "reason"),),
            stacked=True,
        ),
        Panel(
            "From stored to settled", "s", quantiles(f"{worker}_feed_latency_seconds"), ((60, "orange"), (600, "red"))
        ),
        Panel("Wait for a worker", "s", quantiles(f"{worker}_queue_wait_seconds"), ((60, "orange"), (600, "red"))),
    )
    rows = (("Now", now), ("Reception", reception), ("Backlog", backlog), ("Answers", answers), ("Audit", _audit()))
    return Dashboard("feed", "radstream: feed", rows)


def _audit() -> tuple[Panel, ...]:
    """What becomes of audit messages, of each process that makes some."""
    prefixes = {"scp": "SCP", "worker": "worker", "delivery": "delivery"}

    def each(make: Callable[..., Query], metric: str) -> tuple[Query, ...]:
        return tuple(make(f"radstream_{part}_audit_{metric}", legend=name) for part, name in prefixes.items())

    receivers = total("radstream_scp_receiver_audit_dropped_total", legend="receivers of the SCP")
    lost = (*each(total, "dropped_total"), receivers)
    return (
        Panel("Audit messages sent", PER_MINUTE, each(per_minute, "sent_total"), reaches=1),
        Panel("Audit messages waiting", "short", each(gauge, "waiting"), reaches=10),
        Panel("Audit messages lost, of a day", "short", lost, ((1, "red"),), reaches=1),
    )


def engines() -> Dashboard:
    """What runs, and how quickly."""
    w = "radstream_worker"
    info = gauge(f"{w}_engine_info", "task", "version", "provider", "precision", "role")
    refused = gauge(f"{w}_engine_refused", "task", "version", combine="max")
    versions = (
        Panel("Engines that run, workers each", "short", (info,), kind="bargauge"),
        Panel("Versions that cannot be loaded", "short", (refused,), ((1, "red"),), reaches=1, nothing="None"),
        Panel("Swaps of a day", "short", (total(f"{w}_swaps_total", "task", "outcome"),), reaches=1, nothing=NEVER),
        Panel(
            "Canary fallbacks of an hour",
            "short",
            (total(f"{w}_canary_fallbacks_total", "task", over="1h"),),
            reaches=1,
            nothing=NEVER,
        ),
        Panel(
            "Shadow",
            PER_MINUTE,
            (per_minute(f"{w}_shadow_findings_total", "task", "outcome"),),
            stacked=True,
            nothing="No version is in the shadow",
        ),
        Panel("Findings", PER_MINUTE, (per_minute(f"{w}_inferences_total", "task"),), stacked=True),
    )
    pace = (
        Panel("Time by stage, 95 %", "s", quantiles(f"{w}_stage_seconds", "stage", at=(0.95,))),
        Panel("CPUs busy by stage", "short", (rate(f"{w}_stage_cpu_seconds_total", "stage"),), stacked=True),
        Panel("Instances per engine call", "short", (mean(f"{w}_batch_size", legend="mean"),)),
        Panel("Jobs in hand", "short", (gauge(f"{w}_jobs_in_hand", "instance"),), reaches=10),
        Panel(
            "Jobs of dead workers put back", "short", (total(f"{w}_requeued_total", "instance", over="1h"),), reaches=1
        ),
        Panel(
            "Outputs that could not be made",
            "short",
            (total(f"{w}_outputs_failed_total", "task", over="1h"),),
            reaches=1,
            nothing=NEVER,
        ),
    )
    return Dashboard("engines", "radstream: engines", (("Versions", versions), ("Pace", pace)))


def delivery() -> Dashboard:
    """What leaves, and what does not."""
    d = "radstream_delivery"
    oldest = gauge(f"{d}_oldest_pending_seconds", "destination", combine="max")
    outputs = (
        Panel("Outputs to be sent", "short", (gauge(f"{d}_pending", "destination", combine="max"),), reaches=10),
        Panel("Age of the oldest", "s", (oldest,), ((3600, "orange"), (43_200, "red")), reaches=60),
        Panel("Given up", "short", (gauge(f"{d}_dead", "destination", combine="max"),), ((1, "red"),), reaches=1),
        Panel("Attempts", PER_MINUTE, (per_minute(f"{d}_attempts_total", "destination", "outcome"),), stacked=True),
        Panel("From stored to delivered, 95 %", "s", quantiles(f"{d}_latency_seconds", "destination", at=(0.95,))),
        Panel("Time to send one output", "s", quantiles(f"{d}_send_seconds")),
    )
    more = (
        Panel(
            "Commitment of archives",
            PER_MINUTE,
            (per_minute(f"{d}_commitments_total", "destination", "outcome"),),
            nothing=UNUSED,
        ),
        Panel(
            "Study summaries of an hour",
            "short",
            (total(f"{d}_summaries_total", "outcome", over="1h"),),
            reaches=1,
            nothing=UNUSED,
        ),
        Panel("Time to make a summary", "s", quantiles(f"{d}_summary_seconds"), nothing=UNUSED),
    )
    return Dashboard("delivery", "radstream: delivery", (("Outputs", outputs), ("Commitment and summaries", more)))


def drift() -> Dashboard:
    """Whether images and answers are what they were."""
    w = "radstream_worker"
    scores = (
        share_above(f"{w}_score", "0.5", "task", over="1d", legend="day"),
        share_above(f"{w}_score", "0.5", "task", over="7d", offset="1d", legend="week before"),
    )
    answers = (
        Panel("Share of scores above 0.5", "percentunit", scores, reaches=1),
        Panel("Scores of a day, mean", "percentunit", (mean(f"{w}_score", "task", over="1d"),), reaches=1),
        Panel("Scores, quartiles", "percentunit", quantiles(f"{w}_score", "task", at=(0.25, 0.5, 0.75)), reaches=1),
    )
    images = (
        Panel("Mean grey value of a day", "percentunit", (mean(f"{w}_input_mean", "task", over="1d"),), reaches=1),
        Panel(
            "Findings that ask for a person, of a day",
            "short",
            (total(f"{w}_reviews_total", "task"),),
            reaches=1,
            nothing=NEVER,
        ),
        Panel(
            "Lungs not found, of a day", "short", (total(f"{w}_lungs_not_found_total", legend="instances"),), reaches=1
        ),
    )
    return Dashboard("drift", "radstream: drift", (("Answers", answers), ("Images", images)))


def _from_low(*steps: tuple[float, str]) -> Thresholds:
    return ((float("-inf"), "red"), *steps)


def dashboards() -> tuple[Dashboard, ...]:
    """Give all dashboards.

    Raises:
        LookupError: a panel names a metric or label that the code does not have.
    """
    return feed(), engines(), delivery(), drift()
