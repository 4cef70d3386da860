"""The model card of a version of task landmarks: what a reader must know before trusting it."""

from __future__ import annotations

from typing import Any, Final

from models.identity import DISCLAIMER
from models.store.manifest import Manifest
from training.model_card import counted, figure

_ROWS: Final = {
    "n": "images",
    "landmarks": "landmarks",
    "mre_px": "mean radial error, px of 512",
    "sdr_6": "within 6 px, %",
    "sdr_12": "within 12 px, %",
    "sdr_18": "within 18 px, %",
    "sdr_24": "within 24 px, %",
    "mre_mm": "mean radial error, mm",
    "cobb_smape": "Cobb SMAPE, %",
    "cobb_mae": "Cobb mean absolute error, degrees",
}
_SPLITS: Final = {
    "validation": "persons who were held out of this very network, answered by the exported file",
    "cross_validation": "persons answered by networks that were fitted likewise without them; the version itself was "
    "fitted to everyone, so its own figures on these images would say nothing",
}
_DIGITS: Final = 2


def landmark_card(manifest: Manifest) -> str:
    """Give the card as Markdown."""
    spec, data = manifest.input_spec, manifest.training_data
    twice = ", the mean over the film and its mirror image" if data.get("mirrored") else ""
    lines = [
        f"# {manifest.task} {manifest.version}",
        "",
        f"**{DISCLAIMER}.**",
        "",
        f"Network `{manifest.network}`, input {spec.height} x {spec.width} pixels, letterboxed{twice}. "
        f"{len(manifest.labels)} landmarks of schema `{data.get('schema')}`.",
        "",
        "## Training data",
        "",
        f"{data.get('description') or 'Not described.'}",
        "",
        *(f"- {side}: {counted(figures)}" for side, figures in data.get("counts", {}).items() if figures.get("images")),
        f"- left out for doubtful labels: {data.get('faulty', 0)}",
        f"- start: {data.get('pretrained') or 'random weights'}",
        "",
        *_measured(manifest),
        "## Limits",
        "",
        "Whole spines from the front, as routing sends them. It answers for whatever it is shown, and names 17",
        "vertebrae T1 to L5: a film that does not show all, or a spine with another number of vertebrae, gets names",
        "that are wrong by one or more; so do films on which it cannot tell the first one, see the share within 24 px.",
        *_framing(data.get("framing", 1.0)),
        *_shape(data.get("alignment", 0.0), data.get("refined", False)),
        "",
        "## Licence",
        "",
        manifest.licence,
        "",
    ]
    return "\n".join(lines)


def _framing(framing: float) -> list[str]:
    if framing >= 1:
        return []
    return [
        "It tells levels also by where in the film they stand, as films of the training data are cut: from about T1 to",
        "the sacrum. Of a film that shows the skull or the hips as well, expect names to be off by more.",
    ]


def _shape(alignment: float, refined: bool) -> list[str]:
    if refined:
        return [
            "Vertebrae are counted along the column, body by body, and their corners are read from a cut-out of each.",
            "Where the first one of the column is not told rightly, all names are off alike.",
        ]
    if not alignment:
        return ["An angle is as good as the end plates that it is measured on."]
    return [
        f"Each vertebra is turned square to the line of the column by a share of {alignment:g} before it is given: a",
        "body that is wedged or tilted against its neighbours is shown less so.",
    ]


def _measured(manifest: Manifest) -> list[str]:
    lines = ["## Measured", "", "In brackets the 95 % interval, persons resampled.", ""]
    for split, metrics in manifest.metrics.items():
        lines += [f"`{split}`: {_SPLITS.get(split, 'no description')}.", "", "| measure | |", "| --- | --- |"]
        lines += [f"| {words} | {figure(metrics, name, _DIGITS)} |" for name, words in _ROWS.items()]
        lines += ["", *_columns(metrics.get("columns"))]
        lines += [*_read(manifest.tilt_scatter, metrics.get("angles_as_landmarks_lie"))]
        lines += [*_review(metrics.get("review")), ""]
    return lines


def _columns(columns: dict[str, int] | None) -> list[str]:
    if columns is None:
        return []
    return [
        f"On {columns['named']} films each vertebra lies on the body of its name, on {columns['level_off']} all lie on",
        f"another, as many levels away, and on {columns['slipped']} names slip from one body to the next on the way.",
        "",
    ]


def _read(tilt_scatter: float | None, as_landmarks_lie: dict[str, float | None] | None) -> list[str]:
    if tilt_scatter is None or not as_landmarks_lie:
        return []
    smape, error = (figure(as_landmarks_lie, name, _DIGITS) for name in ("cobb_smape", "cobb_mae"))
    return [
        f"Cobb angles are read with a scatter of tilts of {tilt_scatter:.1f} degrees, chosen on these films: readers'",
        "tilts scatter, and an angle is the largest of their differences. Between the lines that are drawn it is",
        f"mostly smaller. On landmarks as they lie: Cobb SMAPE {smape} %, mean absolute error {error} degrees.",
        "",
    ]


def _review(review: dict[str, Any] | None) -> list[str]:
    if review is None:
        return []
    flagged, missed = 100 * review["flagged_of_sound"], 100 * review["flagged_of_unsound"]
    return [
        f"A vertebra with a landmark below confidence {review['confidence']:.3f} is flagged for review. So are "
        f"{flagged:.0f} % of the films whose every landmark lies within 18 px, and {missed:.0f} % of the others, which "
        f"are {100 * review['unsound']:.0f} % of all."
    ]
