"""`python -m deploy.dashboards`: writes `deploy/grafana/*.json` from the panels over the code's metrics."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from deploy.dashboard_panels import Dashboard, Panel, dashboards
from deploy.generated import write_or_check

TARGET: Final = Path(__file__).parent / "grafana"
SCHEMA_VERSION: Final = 39
"""Of Grafana 11; newer ones read it."""
COLUMNS: Final = 24
HEIGHT: Final = 8
STAT_HEIGHT: Final = 4
DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}


def render(dashboard: Dashboard) -> str:
    """Give the file of one dashboard."""
    document = {
        "uid": f"radstream-{dashboard.name}",
        "title": dashboard.title,
        "description": "Written by `python -m deploy.dashboards`; change the panels there, not here.",
        "tags": ["radstream"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-14d" if dashboard.name == "drift" else "now-6h", "to": "now"},
        "timezone": "browser",
        "links": [{"type": "dashboards", "title": "radstream", "tags": ["radstream"], "asDropdown": False}],
        "templating": {"list": _variables(dashboard)},
        "annotations": {"list": []},
        "panels": list(_panels(dashboard)),
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _variables(dashboard: Dashboard) -> list[dict[str, Any]]:
    jobs = sorted(
        {family.job for _, panels in dashboard.rows for panel in panels for q in panel.queries for family in q.families}
    )
    query = f'label_values(up{{job=~"{"|".join(jobs)}"}}, instance)'
    return [
        {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
        {
            "name": "instance",
            "label": "Instance",
            "type": "query",
            "datasource": DATASOURCE,
            "query": {"query": query, "refId": "instance"},
            "refresh": 2,
            "includeAll": True,
            "multi": True,
            "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
        },
    ]


def _panels(dashboard: Dashboard) -> Iterator[dict[str, Any]]:
    number, top = 0, 0
    for heading, panels in dashboard.rows:
        number += 1
        place = {"x": 0, "y": top, "w": COLUMNS, "h": 1}
        yield {"id": number, "type": "row", "title": heading, "collapsed": False, "gridPos": place, "panels": []}
        top += 1
        stats = all(panel.kind == "stat" for panel in panels)
        width, height = (COLUMNS // len(panels), STAT_HEIGHT) if stats else (COLUMNS // 3, HEIGHT)
        across = COLUMNS // width
        for index, panel in enumerate(panels):
            number += 1
            line, column = divmod(index, across)
            yield _panel(number, panel, {"x": column * width, "y": top + line * height, "w": width, "h": height})
        top += -(-len(panels) // across) * height


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    families = dict.fromkeys(family for query in panel.queries for family in query.families)
    targets = [
        {
            "refId": chr(ord("A") + index),
            "datasource": DATASOURCE,
            "expr": query.expression,
            "legendFormat": query.legend,
            "instant": panel.kind != "timeseries",
            "range": panel.kind == "timeseries",
        }
        for index, query in enumerate(panel.queries)
    ]
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": "\n\n".join(f"{family.help} (`{family.name}`)" for family in families),
        "datasource": DATASOURCE,
        "gridPos": place,
        "targets": targets,
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _options(panel),
    }


def _defaults(panel: Panel) -> dict[str, Any]:
    steps = [{"color": colour, "value": None if math.isinf(value) else value} for value, colour in panel.thresholds]
    if not steps or steps[0]["value"] is not None:
        steps.insert(0, {"color": "green", "value": None})
    defaults: dict[str, Any] = {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}}
    defaults["noValue"] = panel.nothing
    if panel.unit != "bool_yes_no":
        defaults["min"] = 0
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "lineWidth": 1,
            "fillOpacity": 20 if panel.stacked else 5,
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "line" if panel.thresholds else "off"},
            "spanNulls": False,
            **({"axisSoftMax": panel.reaches} if panel.reaches is not None else {}),
        }
    return defaults


def _options(panel: Panel) -> dict[str, Any]:
    reduce = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    if panel.kind == "timeseries":
        # The largest first: of a dozen series a panel has room for the names of five.
        order = {"sortBy": "Max", "sortDesc": True} if len(panel.queries) == 1 else {}
        calculated = {"showLegend": True, "calcs": ["lastNotNull", "max"], **order}
        legend = {"displayMode": "table", "placement": "bottom", **calculated}
        return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
    if panel.kind == "bargauge":
        return {"reduceOptions": reduce, "orientation": "horizontal", "displayMode": "basic"}
    return {"reduceOptions": reduce, "colorMode": "background", "graphMode": "none", "textMode": "value_and_name"}


def main(argv: Sequence[str] | None = None) -> int:
    """Write the dashboards, or with ``--check`` see whether they are what the code says; 1 where they are not."""
    try:
        return write_or_check(
            lambda: {TARGET / f"{dashboard.name}.json": render(dashboard) for dashboard in dashboards()},
            "deploy.dashboards",
            __doc__,
            argv,
        )
    except LookupError as error:
        print(f"{error.args[0]}: change deploy/dashboard_panels.py", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
