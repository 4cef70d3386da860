"""The model card of a version of task csi: what a reader must know before trusting it, from the manifest's figures."""

from __future__ import annotations

from typing import Any, Final

from models.identity import DISCLAIMER
from models.pixels.spec import Framing
from models.store.manifest import Manifest
from training.model_card import counted, figure

_ROWS: Final = {
    "n": "images",
    "gradable": "zones",
    "kappa_quadratic": "quadratic kappa per zone",
    "mae_zone": "mean absolute error per zone, grades",
    "accuracy": "accuracy per zone",
    "f1_macro": "macro F1 per zone",
    "mean_csi_mae": "mean absolute error of the mean CSI",
    "mean_csi_rmse": "root mean squared error of the mean CSI",
    "mean_csi_pearson": "Pearson correlation of the mean CSI",
}
_SPLITS: Final = {
    "validation": "persons who were held out of this very network, answered by the exported file; it was "
    "calibrated on them, so the figures are a little too good",
    "cross_validation": "every person, each answered by a network that was fitted, and calibrated, likewise without "
    "that person; the version itself was fitted to everyone, so its own figures on these images would say nothing",
    "test": "images that no choice was made on",
}
_SECOND: Final = "second_reader"
_DIGITS: Final = 3


def zone_card(manifest: Manifest) -> str:
    """Give the card as Markdown."""
    spec, data = manifest.input_spec, manifest.training_data
    fed = "the lung fields, found by registration to an average chest" if spec.framing is Framing.LUNGS else "the image"
    counts = data.get("counts", {})
    ungradable = sum(side.get("zones ungradable", 0) for side in counts.values())
    lines = [
        f"# {manifest.task} {manifest.version}",
        "",
        f"**{DISCLAIMER}.**",
        "",
        f"Backbone `{manifest.network}` ({data.get('zones')} zone features), input {spec.height} x {spec.width} pixels "
        f"of {fed}. Six lung zones, each graded 0 normal, 1 mild, 2 moderate, 3 severe, or ungradable; the score is "
        "the median of the graded probabilities.",
        "",
        "## Training data",
        "",
        f"{data.get('description') or 'Not described.'}",
        "",
        *(f"- {side}: {counted(figures)}" for side, figures in counts.items() if figures.get("images")),
        f"- start: {data.get('pretrained') or 'random weights'}",
        "",
        *_measured(manifest),
        "## Limits",
        "",
        *_limits(ungradable),
        "",
        "## Licence",
        "",
        manifest.licence,
        "",
    ]
    return "\n".join(lines)


def _measured(manifest: Manifest) -> list[str]:
    lines = ["## Measured", "", "Against the first reader; in brackets the 95 % interval, persons resampled.", ""]
    for split, metrics in manifest.metrics.items():
        columns = {"network": metrics} | ({"second reader": metrics[_SECOND]} if _SECOND in metrics else {})
        lines += [f"`{split}`: {_SPLITS.get(split, 'no description')}.", ""]
        lines += ["| measure | " + " | ".join(columns) + " |", "| --- |" + " --- |" * len(columns)]
        lines += [
            f"| {words} | " + " | ".join(figure(each, name, _DIGITS) for each in columns.values()) + " |"
            for name, words in _ROWS.items()
        ]
        lines += ["", *_zone_table(metrics), ""]
    return lines


def _zone_table(metrics: dict[str, Any]) -> list[str]:
    rows = [
        f"| {zone} | {figure(figures, 'kappa_quadratic', _DIGITS)} | {figure(figures, 'mae_zone', _DIGITS)} |"
        for zone, figures in metrics["per_zone"].items()
    ]
    return ["| zone | quadratic kappa | mean absolute error |", "| --- | --- | --- |", *rows]


def _limits(ungradable: int) -> list[str]:
    lines = [
        "Frontal radiographs alone. A map shows what spoke for the score of its zone, on a coarse grid; it outlines",
        "nothing. Where the lungs are not found the zones are those of the whole image, and the summary says so.",
    ]
    if not ungradable:
        lines += [
            "No zone of the training data was ungradable: this version has not learnt when to refuse, and grades",
            "whatever it is shown.",
        ]
    return lines
