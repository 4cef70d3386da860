"""The model card of a version: what a reader must know before trusting it, from the manifest's own figures."""

from __future__ import annotations

from typing import Any, Final

from models.identity import DISCLAIMER
from models.store.manifest import Manifest

_ROWS: Final = {
    "n": "images",
    "accuracy": "accuracy",
    "roc_auc": "ROC-AUC",
    "average_precision": "average precision",
    "sensitivity": "sensitivity (recall)",
    "specificity": "specificity",
    "ppv": "positive predictive value (precision)",
    "npv": "negative predictive value",
    "f1": "F1",
    "ece": "expected calibration error",
    "log_loss": "log-loss, nat",
}
_TUNED: Final = "epoch, temperature and threshold were chosen on it, so the figures are a little too good."
_SPLITS: Final = {
    "validation": f"held-out persons of the same set; {_TUNED}",
    "validation_shifted": f"the same images, made to look as if another hospital had taken them; {_TUNED}",
    "test": "images that no choice was made on.",
}


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
        *(f"- {side}: {counted(figures)}" for side, figures in counts.items()),
        f"- start: {manifest.training_data.get('pretrained') or 'random weights'}",
        "",
        "No person stands on both sides of the split, and no two identical images do.",
        "",
        "## Measured",
        "",
        "By the engine that serves, on the exported file; in brackets the 95 % interval, persons resampled.",
        "",
        *(f"- `{split}`: {_SPLITS[split]}" for split in manifest.metrics if split in _SPLITS),
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


def counted(figures: dict[str, Any]) -> str:
    """Say counts in words."""
    return ", ".join(f"{number} {name}" for name, number in figures.items())


def _table(metrics: dict[str, dict[str, Any]]) -> list[str]:
    splits = list(metrics)
    head = ["| measure | " + " | ".join(splits) + " |", "| --- |" + " --- |" * len(splits)]
    known = [row for row in _ROWS if any(row in metrics[split] for split in splits)]
    return head + [
        f"| {_ROWS[row]} | " + " | ".join(figure(metrics[split], row) for split in splits) + " |" for row in known
    ]


def figure(metrics: dict[str, Any], name: str, digits: int = 4) -> str:
    """Give one measure in words, with its interval where it has one."""
    value = metrics.get(name)
    if not isinstance(value, float):
        return "-" if value is None else str(value)
    low, high = metrics.get("intervals", {}).get(name) or (None, None)
    return f"{value:.{digits}f}" if low is None else f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
