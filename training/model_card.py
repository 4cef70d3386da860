"""The model card of a version: what a reader must know before trusting it, from the manifest's own figures."""

from __future__ import annotations

from typing import Any, Final

from models.identity import DISCLAIMER
from models.store.manifest import Manifest

_ROWS: Final = ("n", "accuracy", "roc_auc", "average_precision", "sensitivity", "specificity", "precision", "log_loss")


def model_card(manifest: Manifest) -> str:
    """Give the card as Markdown."""
    threshold = manifest.thresholds.get(manifest.positive_label or "")
    counts = manifest.training_data.get("counts", {})
    lines = [
        f"# {manifest.task} {manifest.version}",
        "",
        f"**{DISCLAIMER}.**",
        "",
        f"Network `{manifest.network}`, input {manifest.input_spec.height} x {manifest.input_spec.width} pixels "
        f"({manifest.input_spec.resize}), labels {', '.join(manifest.labels)}. "
        f"Called {manifest.positive_label} at a probability of {threshold} or more.",
        "",
        "## Training data",
        "",
        f"{manifest.training_data.get('description') or 'Not described.'}",
        "",
        *(f"- {side}: {_counted(figures)}" for side, figures in counts.items()),
        f"- start: {manifest.training_data.get('pretrained') or 'random weights'}",
        "",
        "No person stands on both sides of the split, and no two identical images do.",
        "",
        "## Measured",
        "",
        "By the engine that serves, on the exported file. `validation` are held-out persons of the same set;",
        "`validation_perturbed` the same images with random changes of framing, tone, sharpness, noise and",
        "compression. Epoch, temperature and threshold were chosen on both, so the figures are a little too good.",
        "",
        *_table(manifest.metrics),
        "",
        "## Limits",
        "",
        "Measured on no other hospital than the one of the training data. Images of other ages, projections, devices",
        "or windows may be answered with high and wrong probabilities. The map shows where evidence for the positive",
        "class was found in the coarse last feature map; it is no outline of a finding.",
        "",
        "## Licence",
        "",
        manifest.licence,
        "",
    ]
    return "\n".join(lines)


def _counted(figures: dict[str, Any]) -> str:
    return ", ".join(f"{number} {name}" for name, number in figures.items())


def _table(metrics: dict[str, dict[str, Any]]) -> list[str]:
    splits = list(metrics)
    head = ["| measure | " + " | ".join(splits) + " |", "| --- |" + " --- |" * len(splits)]
    return head + [
        f"| {row} | " + " | ".join(_figure(metrics[split].get(row)) for split in splits) + " |" for row in _ROWS
    ]


def _figure(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
