"""`python -m training evaluate`: answers of a version or a checkpoint on a labelled split, measured and drawn.

::

    metrics_<split>.json              measures with 95 % intervals, see `training.evaluation.classification_metrics`
    evaluation_<split>.json           what was evaluated, on which images
    predictions_<split>.csv           file, person, label, probability: everything that the measures were made from
    confusion_matrix_<split>.png, roc_curve_<split>.png, pr_curve_<split>.png, calibration_<split>.png
    grad_cam_samples/sample_<i>_<CLASS>_<file>_cam.png

The same subject on the same images gives the same bytes: no times, no paths. An evaluation is repeated in place.
"""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.errors import ConfigurationError
from training.classes import POSITIVE
from training.datasets.labelled import AUTO, LabelledImage, LabelledImages, read_labelled
from training.datasets.radiographs import Radiographs, in_order, read_input
from training.datasets.reading import read_radiograph
from training.evaluation import Floats, Labels, classification_metrics, write_metrics
from training.progress import CONSOLE, track
from training.subjects import Subject

SAMPLES_FOLDER: Final = "grad_cam_samples"
PARITY_CORRELATION: Final = 0.99
"""Least correlation of the exported map with the grad-cam package's."""

_SPLIT_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DISPLAY_SIDE: Final = 512


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """What is asked for.

    Attributes:
        data_dir: directory of the labelled images.
        split: which of its splits, and the name in the files; a set without splits is taken whole.
        output_dir: where the files go.
        format: of the data, see `training.datasets.labelled.read_labelled`.
        labels_csv: table of labels, where it is not found by its usual name.
        limit: at most this many images per class.
        samples: how many Grad-CAM pictures.
        bootstrap: replicates of the intervals.
        batch_size: images per run of the network.
        num_workers: processes that read images; 0 reads in this one.
    """

    data_dir: Path
    split: str
    output_dir: Path
    format: str = AUTO
    labels_csv: Path | None = None
    limit: int | None = None
    samples: int = 20
    bootstrap: int = 1000
    batch_size: int = 16
    num_workers: int = 0


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was found.

    Attributes:
        metrics: as in ``metrics_<split>.json``.
        description: as in ``evaluation_<split>.json``.
        files: everything that was written, in order.
    """

    metrics: dict[str, Any]
    description: dict[str, Any]
    files: tuple[Path, ...]


def evaluate(subject: Subject, request: EvaluationRequest) -> Evaluation:
    """Answer every image of the split and write the files.

    Raises:
        ConfigurationError: the data or the output directory cannot be used.
        Transient: the engine failed.
    """
    check_split_name(request.split)
    # 1. Images, before anything is written.
    images = read_labelled(
        request.data_dir,
        subject.labels,
        format=request.format,
        labels_csv=request.labels_csv,
        split=request.split,
        limit=request.limit,
        progress=lambda files: track(files, len(files), "reading images"),
    )
    make_directory(request.output_dir)
    # 2. Answers and measures.
    label, probability = answer_all(subject, images.images, request)
    metrics = classification_metrics(
        label,
        probability,
        subject.threshold,
        labels=subject.labels,
        groups=[image.person for image in images.images],
        bootstrap=request.bootstrap,
    )
    # 3. Files.
    files = _write_tables(subject, request, images, probability, metrics)
    files += _draw_curves(subject, request, label, probability, metrics)
    chosen = choose_samples(label, probability, subject.threshold, request.samples)
    pictures, correlations = _draw_samples(subject, request, [images.images[i] for i in chosen], probability[chosen])
    description = _describe(subject, request, images, correlations)
    write_metrics(request.output_dir / f"evaluation_{request.split}.json", description)
    files += [request.output_dir / f"evaluation_{request.split}.json", *pictures]
    return Evaluation(metrics, description, tuple(files))


def check_split_name(split: str) -> None:
    """Refuse what cannot be part of the names of files.

    Raises:
        ConfigurationError: it has other signs than letters, digits, dot, dash and underscore.
    """
    if _SPLIT_NAME.fullmatch(split) is None:
        raise ConfigurationError(f"split {split!r}: letters, digits, dot, dash and underscore only")


def make_directory(directory: Path) -> None:
    """Make a directory unless it stands already.

    Raises:
        ConfigurationError: it cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"{directory}: cannot make the output directory: {error.strerror}") from error


def answer_all(
    subject: Subject, images: tuple[LabelledImage, ...], request: EvaluationRequest
) -> tuple[Labels, Floats]:
    """Give label ``(N)`` and probability of the positive class ``(N)``, in the order of the images."""
    loader = in_order(Radiographs(images, subject.input_spec), request.batch_size, request.num_workers)
    probabilities = [
        subject.answer(batch[0].numpy()).probability for batch in track(loader, len(loader), "answering images")
    ]
    label = np.array([image.label for image in images], np.int64)
    return label, np.concatenate(probabilities).astype(np.float64)


def choose_samples(label: Labels, probability: Floats, threshold: float, count: int) -> list[int]:
    """Choose images to draw, evenly of the four outcomes where there are enough: places in ascending order.

    Of wrong answers the surest come first, for there is most to learn from them; right answers are spread from unsure
    to sure.
    """
    called, truth = probability >= threshold, label == 1
    distance = np.abs(probability - threshold)

    def ranked(outcome: NDArray[np.bool_]) -> list[int]:
        places = np.flatnonzero(outcome)
        return [int(i) for i in places[np.argsort(-distance[places], kind="stable")]]

    outcomes = [
        ranked(called & ~truth),
        ranked(~called & truth),
        _spread_first(ranked(called & truth)),
        _spread_first(ranked(~called & ~truth)),
    ]
    chosen: list[int] = []
    while len(chosen) < min(count, len(label)):
        chosen += [places.pop(0) for places in outcomes if places][: count - len(chosen)]
    return sorted(chosen)


def _spread_first(items: list[int]) -> list[int]:
    """Order items so that any first few of them are spread: ends, middle, quarters and so on."""
    fractions = [0.0, 1.0, *((2 * i + 1) / 2**level for level in range(1, 12) for i in range(2 ** (level - 1)))]
    places = [round(fraction * (len(items) - 1)) for fraction in fractions] if items else []
    return [items[i] for i in dict.fromkeys([*places, *range(len(items))])]


def _write_tables(
    subject: Subject, request: EvaluationRequest, images: LabelledImages, probability: Floats, metrics: dict[str, Any]
) -> list[Path]:
    measured = request.output_dir / f"metrics_{request.split}.json"
    write_metrics(measured, metrics)
    predictions = request.output_dir / f"predictions_{request.split}.csv"
    with predictions.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file", "person", "label", "probability"])
        for image, value in zip(images.images, probability, strict=True):
            # The shortest digits that give the same float32 again, so that the measures can be made anew from them.
            writer.writerow([image.source, image.person, subject.labels[image.label], str(np.float32(value))])
    return [measured, predictions]


def _draw_curves(
    subject: Subject, request: EvaluationRequest, label: Labels, probability: Floats, metrics: dict[str, Any]
) -> list[Path]:
    from training import plots

    title = f"{subject.name}, {request.split} (n = {len(label)})"
    names = ("confusion_matrix", "roc_curve", "pr_curve", "calibration")
    matrix, roc, precision_recall, calibration = (request.output_dir / f"{name}_{request.split}.png" for name in names)
    plots.draw_confusion_matrix(matrix, metrics, subject.labels, title)
    plots.draw_roc_curve(roc, label, probability, metrics, title)
    plots.draw_pr_curve(precision_recall, label, probability, metrics, title)
    plots.draw_calibration(calibration, label, probability, metrics, subject.labels, title)
    return [matrix, roc, precision_recall, calibration]


def _draw_samples(
    subject: Subject, request: EvaluationRequest, images: list[LabelledImage], probability: Floats
) -> tuple[list[Path], list[float]]:
    """Draw the samples and compare their maps with the reference where there is one."""
    from training import plots

    folder = empty_samples_folder(request.output_dir)
    files, correlations = [], []
    for number, image in enumerate(track(images, len(images), "drawing Grad-CAM samples")):
        pixels = read_input(image.path, subject.input_spec)
        called = probability[number] >= subject.threshold
        sample = plots.ExplainedSample(
            display=read_radiograph(image.path).to_display(_DISPLAY_SIDE),
            heat=subject.explain(pixels),
            name=image.path.name,
            truth=subject.labels[image.label],
            answer=subject.labels[int(called)],
            positive_label=subject.labels[POSITIVE],
            probability=float(probability[number]),
            threshold=subject.threshold,
            method=subject.method,
        )
        files.append(folder / f"sample_{number:02d}_{sample.truth}_{safe_name(image.path)}_cam.png")
        plots.draw_sample(files[-1], sample)
        correlation = subject.check_map(pixels)
        correlations += [] if correlation is None else [correlation]
    return files, correlations


def empty_samples_folder(output_dir: Path, name: str = SAMPLES_FOLDER, pattern: str = "sample_*_cam.png") -> Path:
    """Give the folder of the samples, without those of an evaluation before, whose names are of this pattern.

    Raises:
        ConfigurationError: it cannot be made.
    """
    folder = output_dir / name
    make_directory(folder)
    for old in folder.glob(pattern):
        old.unlink()
    return folder


def safe_name(path: Path) -> str:
    """Give the name of a file in signs that any file system takes."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.name)


def _describe(
    subject: Subject, request: EvaluationRequest, images: LabelledImages, correlations: list[float]
) -> dict[str, Any]:
    counts = {name: sum(image.label == index for image in images.images) for index, name in enumerate(images.labels)}
    return {
        **subject.describe(),
        "split": request.split,
        "data": {
            "format": str(images.format),
            "digest": images.digest,
            "images": len(images.images),
            "persons": len({image.person for image in images.images}),
            **counts,
            "unreadable": sorted(found.path.name for found in images.unreadable),
        },
        "bootstrap": {"replicates": request.bootstrap, "resampled": "persons"},
        "cam": {
            "method": subject.method,
            "compared": len(correlations),
            "least_correlation": round(min(correlations), 4) if correlations else None,
        },
    }


def say(evaluation: Evaluation) -> None:
    """Print what a person wants to know first."""
    metrics, description = evaluation.metrics, evaluation.description
    data = description["data"]
    CONSOLE.print(
        f"{description['subject']} on {description['split']}: {data['images']} images of {data['persons']} persons"
    )
    for name in ("accuracy", "roc_auc", "average_precision", "sensitivity", "specificity", "f1"):
        CONSOLE.print(f"  {name:<18} {in_words(metrics, name)}")
    CONSOLE.print(f"  {'ece':<18} {metrics['ece']:.4f}")
    CONSOLE.print(f"  {'confusion':<18} {json.dumps(metrics['confusion_matrix'])}")
    if data["unreadable"]:
        CONSOLE.print(f"{len(data['unreadable'])} unreadable files left out, e.g. {data['unreadable'][0]}")
    least = description["cam"]["least_correlation"]
    if least is not None:
        verdict = "" if least >= PARITY_CORRELATION else f": BELOW {PARITY_CORRELATION}"
        CONSOLE.print(f"map in the graph against the grad-cam package: least correlation {least:.4f}{verdict}")


def in_words(metrics: dict[str, Any], name: str) -> str:
    """Give one measure with its interval, four digits."""
    value = metrics.get(name)
    if value is None:
        return "not defined"
    low, high = metrics.get("intervals", {}).get(name, (None, None))
    return f"{value:.4f}" if low is None else f"{value:.4f} ({low:.4f} to {high:.4f})"
