"""What the dashboards show: a table of panels over the metrics of the code.

A panel names metrics; its description is their help text, and a name or label that the code does not have is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from deploy.metric_catalogue import Family, catalogue

WINDOW: Final = "[$__rate_interval]"
QUANTILES: Final = (0.5, 0.95, 0.99)
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
    """One panel; `unit` is Grafana's identifier of a unit, `kind` its type of panel."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    thresholds: Thresholds = ()
    kind: str = "timeseries"
    stacked: bool = False


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


def rate(name: str, *by: str, legend: str = "", scale: int = 1) -> Query:
    """Events a second, times `scale`."""
    family = _family(name, "counter", by)
    times = f" * {scale}" if scale != 1 else ""
    expression = f"sum by ({', '.join(by)}) (rate({_selector(name)}{WINDOW})){times}"
    return Query(expression, legend or _legend(by, "all"), (family,))


def total(name: str, *by: str, over: str = "1d", legend: str = "") -> Query:
    """Events within a time."""
    family = _family(name, "counter", by)
    return Query(
        f"sum by ({', '.join(by)}) (increase({_selector(name)}[{over}]))", legend or _legend(by, "all"), (family,)
    )


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
        _up("Database, of the worker", f"{worker}_database_up"),
        _up("Redis, of the worker", f"{worker}_redis_up"),
        _stat("Open associations", "short", gauge(f"{scp}_open_associations", "instance")),
    )
    reception = (
        Panel("Instances answered", "ops", (rate(f"{scp}_instances_total", "status"),), stacked=True),
        Panel("Bytes accepted", "Bps", (rate(f"{scp}_bytes_total", "instance"),)),
        Panel("Time to store", "s", quantiles(f"{scp}_store_seconds"), ((1, "orange"), (5, "red"))),
        Panel("Associations ended", "ops", (rate(f"{scp}_associations_total", "outcome"),), stacked=True),
        Panel("STOW-RS answers", "ops", (rate(f"{scp}_stow_requests_total", "code"),), stacked=True),
        Panel(
            "Storage commitment for senders",
            "ops",
            (
                rate(f"{scp}_commitment_requests_total", legend="asked"),
                rate(f"{scp}_commitment_reports_total", "outcome"),
            ),
        ),
    )
    oldest = gauge(f"{scp}_spool_oldest_seconds", "instance", combine="max")
    free = gauge(f"{scp}_spool_free_bytes", "instance", combine="min")
    backlog = (
        Panel("Unfinished instances", "short", (gauge(f"{scp}_spool_pending", "instance"),), ((80_000, "red"),)),
        Panel("Age of the oldest unfinished", "s", (oldest,), ((900, "orange"), (1800, "red"))),
        Panel("Free on the disk of the spool", "bytes", (free,), _from_low((2 * GIB, "orange"), (10 * GIB, "green"))),
        Panel("Jobs by queue", "short", (gauge("radstream_queue_depth", "queue", "state", combine="max"),)),
        Panel("From durable to queued", "s", quantiles(f"{scp}_registrar_lag_seconds"), ((10, "red"),)),
        Panel(
            "Found by sweeps",
            "ops",
            (
                rate(f"{scp}_swept_instances_total", legend="queued by a sweep"),
                rate(f"{scp}_notices_dropped_total", legend="left to the sweeper"),
                rate(f"{scp}_sweeps_total", legend="sweeps"),
            ),
        ),
    )
    answers = (
        Panel("Instances settled", "ops", (rate(f"{worker}_instances_total", "outcome", "reason"),), stacked=True),
        Panel(
            "From stored to settled", "s", quantiles(f"{worker}_feed_latency_seconds"), ((60, "orange"), (600, "red"))
        ),
        Panel("Wait for a worker", "s", quantiles(f"{worker}_queue_wait_seconds"), ((60, "orange"), (600, "red"))),
    )
    rows = (("Now", now), ("Reception", reception), ("Backlog", backlog), ("Answers", answers))
    return Dashboard("feed", "radstream: feed", rows)


def engines() -> Dashboard:
    """What runs, and how quickly."""
    w = "radstream_worker"
    info = gauge(f"{w}_engine_info", "task", "version", "provider", "precision", "role")
    refused = gauge(f"{w}_engine_refused", "task", "version", combine="max")
    versions = (
        Panel("Engines that run, workers each", "short", (info,), kind="bargauge"),
        Panel("Versions that cannot be loaded", "short", (refused,), ((1, "red"),)),
        Panel("Swaps of a day", "short", (total(f"{w}_swaps_total", "task", "outcome"),)),
        Panel("Canary fallbacks of an hour", "short", (total(f"{w}_canary_fallbacks_total", "task", over="1h"),)),
        Panel("Shadow", "ops", (rate(f"{w}_shadow_findings_total", "task", "outcome"),), stacked=True),
        Panel("Findings", "ops", (rate(f"{w}_inferences_total", "task"),), stacked=True),
    )
    pace = (
        Panel("Time by stage, 95 %", "s", quantiles(f"{w}_stage_seconds", "stage", at=(0.95,))),
        Panel("CPUs busy by stage", "short", (rate(f"{w}_stage_cpu_seconds_total", "stage"),), stacked=True),
        Panel("Instances per engine call", "short", (mean(f"{w}_batch_size", legend="mean"),)),
        Panel("Jobs in hand", "short", (gauge(f"{w}_jobs_in_hand", "instance"),)),
        Panel("Jobs of dead workers put back", "short", (total(f"{w}_requeued_total", "instance", over="1h"),)),
        Panel("Outputs that could not be made", "short", (total(f"{w}_outputs_failed_total", "task", over="1h"),)),
    )
    return Dashboard("engines", "radstream: engines", (("Versions", versions), ("Pace", pace)))


def delivery() -> Dashboard:
    """What leaves, and what does not."""
    d = "radstream_delivery"
    oldest = gauge(f"{d}_oldest_pending_seconds", "destination", combine="max")
    outputs = (
        Panel("Outputs to be sent", "short", (gauge(f"{d}_pending", "destination", combine="max"),)),
        Panel("Age of the oldest", "s", (oldest,), ((3600, "orange"), (43_200, "red"))),
        Panel("Given up", "short", (gauge(f"{d}_dead", "destination", combine="max"),), ((1, "red"),)),
        Panel("Attempts", "ops", (rate(f"{d}_attempts_total", "destination", "outcome"),), stacked=True),
        Panel("From stored to delivered, 95 %", "s", quantiles(f"{d}_latency_seconds", "destination", at=(0.95,))),
        Panel("Time of one C-STORE", "s", quantiles(f"{d}_send_seconds")),
    )
    more = (
        Panel("Commitment of archives", "ops", (rate(f"{d}_commitments_total", "destination", "outcome"),)),
        Panel("Study summaries of an hour", "short", (total(f"{d}_summaries_total", "outcome", over="1h"),)),
        Panel("Time to make a summary", "s", quantiles(f"{d}_summary_seconds")),
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
        Panel("Share of scores above 0.5", "percentunit", scores),
        Panel("Scores of a day, mean", "percentunit", (mean(f"{w}_score", "task", over="1d"),)),
        Panel("Scores, quartiles", "percentunit", quantiles(f"{w}_score", "task", at=(0.25, 0.5, 0.75))),
    )
    images = (
        Panel("Mean grey value of a day", "percentunit", (mean(f"{w}_input_mean", "task", over="1d"),)),
        Panel("Findings that ask for a person, of a day", "short", (total(f"{w}_reviews_total", "task"),)),
        Panel("Lungs not found, of a day", "short", (total(f"{w}_lungs_not_found_total", legend="instances"),)),
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
