"""The whole statement, part by part in the order of PS3.2 annex N."""

from __future__ import annotations

from deploy.conformance import (
    audit,
    codes,
    configuration,
    network,
    objects,
    overview,
    report_content,
    security,
    services,
    statuses,
)
from deploy.conformance.markdown import contents, paragraphs


def render() -> str:
    """Give the document."""
    first = overview.render()
    rest = paragraphs(
        overview.INTRODUCTION,
        services.render(),
        configuration.render(),
        network.render(),
        statuses.render(),
        security.TEXT,
        objects.render(),
        report_content.render(),
        security.ANNEX,
        audit.render(),
        codes.render(),
        network.render_further_classes(),
    )
    listed = contents(f"{first}\n\n{rest}")
    return paragraphs(overview.COVER, first, "## 2 Table of contents", listed, rest) + "\n"
