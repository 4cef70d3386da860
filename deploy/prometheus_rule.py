"""`python -m deploy.prometheus_rule`: the alert rules as an object of the Prometheus operator, for Kubernetes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import indent
from typing import Final

from deploy.generated import write_or_check

DEPLOY: Final = Path(__file__).parent
RULES: Final = DEPLOY / "prometheus" / "radstream.rules.yml"
OBJECT: Final = DEPLOY / "kubernetes" / "base" / "rules.yaml"
HEADER: Final = """\
# Written by `python -m deploy.prometheus_rule` from deploy/prometheus/radstream.rules.yml: change that.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: radstream
spec:
"""


def documents() -> dict[Path, str]:
    """Give the object: the rules, as they are, are its spec."""
    return {OBJECT: HEADER + indent(RULES.read_text(encoding="utf-8"), "  ")}


def main(argv: Sequence[str] | None = None) -> int:
    """Write the object, or check it; give the exit status."""
    return write_or_check(documents, "deploy.prometheus_rule", __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
