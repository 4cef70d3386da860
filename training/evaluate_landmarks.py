"""`python -m training evaluate --task landmarks`: landmarks of a version or a checkpoint, measured against a set's.

::

    metrics_<split>.json              measures with 95 % intervals, see `training.landmark_evaluation.landmark_metrics`
    evaluation_<split>.json           what was evaluated, on which images; the measures without rows that are faulty
    predictions_<split>.csv           per image and landmark: everything that the measures of distance were made from
    angles_<split>.csv                per image the three Cobb angles, where the set gives any
    errors_<split>.png, vertebrae_<split>.png, cobb_<split>.png
    landmark_samples/sample_<i>_<file>_landmarks.png    from the worst answer to the best

Every image that can be read counts, those whose landmarks are faulty with the others, so that figures are comparable
with those of others on the same split; faulty rows are left out of a second set of figures, and named. The same subject
on the same images gives the same bytes: no times, no paths. An evaluation is repeated in place.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from models.errors import ConfigurationError
from training.datasets.exclusions import check_exclusions
from training.datasets.landmark_images import LandmarkImages, read_landmark_images
from training.datasets.reading import read_radiograph
from training.evaluate import (
    Evaluation,
    EvaluationRequest,
    check_split_name,
    empty_samples_folder,
    in_words,
    make_directory,
    safe_name,
)
from training.evaluate_zones import choose_samples
from training.evaluation import DECIMALS, write_metrics
from training.landmark_columns import columns_in_words
from training.landmark_evaluation import (
    HEADLINES,
    given_angles,
    image_errors_px,
    radial_errors_px,
)
from training.landmark_subjects import LandmarkSubject
from training.located_images import LocatedImages, is_sound, locate_all
from training.progress import CONSOLE, track

LANDMARK_SAMPLES_FOLDER: Final = "landmark_samples"

_DISPLAY_SIDE: Final = 1024
_ANGLE_NAMES: Final = ("main", "second", "third")


@dataclass(frozen=True, slots=True)
class LandmarkEvaluationRequest(EvaluationRequest):
    """What is asked for; `limit` is of the whole split.

    Attributes:
        exclude: names of files to leave out.
    """

    exclude: tuple[str, ...] = ()


def evaluate_landmarks(subject: LandmarkSubject, request: LandmarkEvaluationRequest) -> Evaluation:
    """Find the landmarks of every image and write the files.

    Raises:
        ConfigurationError: the data or the output directory cannot be used, or the set has other landmarks.
        Transient: the engine failed.
    """
    check_split_name(request.split)
    # 1. Images, before anything is written.
    images = _read(request)
    if images.schema != subject.schema:
        raise ConfigurationError(
            f"{request.data_dir}: has landmarks {images.schema.name}; {subject.name} finds {subject.schema.name}"
        )
    make_directory(request.output_dir)
    # 2. Answers and measures.
    located = locate_all(subject, images.images, request.batch_size, request.num_workers)
    metrics = located.measured(request.bootstrap)
    # 3. Files.
    files = [_path(request, "metrics", "json"), _path(request, "predictions", "csv")]
    write_metrics(files[0], metrics)
    write_predictions(files[1], located)
    if metrics["with_angles"]:
        files.append(_path(request, "angles", "csv"))
        write_angles(files[-1], located)
    files += _draw(subject, request, located, metrics)
    pictures = _draw_samples(request, located)
    description = _describe(subject, request, images, located, metrics)
    described = _path(request, "evaluation", "json")
    write_metrics(described, description)
    return Evaluation(metrics, description, (*files, described, *pictures))


def _path(request: EvaluationRequest, name: str, suffix: str) -> Path:
    return request.output_dir / f"{name}_{request.split}.{suffix}"


def _read(request: LandmarkEvaluationRequest) -> LandmarkImages:
    images = read_landmark_images(
        request.data_dir,
        format=request.format,
        split=request.split,
        exclude=frozenset(request.exclude),
        keep_faulty=True,
        progress=lambda paths: track(paths, len(paths), "reading images"),
    )
    check_exclusions(request.exclude, images.excluded)
    return images.limited(request.limit)


def write_predictions(path: Path, located: LocatedImages) -> None:
    """Write a row per image and landmark: both places, confidence and spread; pixels of the original but `error_px`."""
    errors = radial_errors_px(located.images, located.points)
    header = ("file", "person", "landmark", "x", "y", "confidence", "spread", "true_x", "true_y", "error_px")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        for row, image in enumerate(located.images):
            for place, name in enumerate(located.schema.labels):
                answer = (*located.points[row, place], located.answers.confidence[row, place])
                values = (*answer, located.spread[row, place], *image.points[place], errors[row, place])
                writer.writerow([image.source, image.person, name, *_cells(values)])


def write_angles(path: Path, located: LocatedImages) -> None:
    """Write a row per image: the three angles of the landmarks that were answered, and those that came with it."""
    answered = located.angles
    given = given_angles(located.images)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        names = [f"{whose}{name}" for whose in ("", "true_") for name in _ANGLE_NAMES]
        writer.writerow(["file", "person", *names])
        for row, image in enumerate(located.images):
            writer.writerow([image.source, image.person, *_cells((*answered[row], *given[row]))])


def _cells(values: Iterable[float]) -> list[str]:
    return ["" if np.isnan(value) else f"{value:.{DECIMALS}f}" for value in values]


def _draw(
    subject: LandmarkSubject, request: EvaluationRequest, located: LocatedImages, metrics: dict[str, Any]
) -> list[Path]:
    from training import landmark_plots

    title = f"{subject.name}, {request.split} (n = {len(located.images)})"
    files = [_path(request, name, "png") for name in ("errors", "vertebrae")]
    landmark_plots.draw_errors(files[0], radial_errors_px(located.images, located.points), metrics, title)
    landmark_plots.draw_vertebrae(files[1], metrics, title)
    if metrics["with_angles"]:
        files.append(_path(request, "cobb", "png"))
        landmark_plots.draw_cobb(files[-1], given_angles(located.images), located.angles, metrics, title)
    return files


def _draw_samples(request: EvaluationRequest, located: LocatedImages) -> list[Path]:
    from training import landmark_plots

    folder = empty_samples_folder(request.output_dir, LANDMARK_SAMPLES_FOLDER, "sample_*_landmarks.png")
    error = image_errors_px(located.images, located.points)
    chosen = choose_samples(error, request.samples)
    angles = located.angles
    files = []
    for number, place in enumerate(track(chosen, len(chosen), "drawing samples")):
        image = located.images[place]
        display = read_radiograph(image.path).to_display(_DISPLAY_SIDE)
        scale = np.array(display.shape[::-1]) / np.array(image.size[::-1])
        sample = landmark_plots.LandmarkSample(
            display=display,
            name=image.path.name,
            answered=located.points[place] * scale,
            truth=image.points * scale,
            confidence=located.answers.confidence[place],
            schema=located.schema,
            error_px=float(error[place]),
            angles=(angles[place].tolist(), image.angles),
            faults=tuple(fault.value for fault in image.faults),
        )
        files.append(folder / f"sample_{number:02d}_{safe_name(image.path)}_landmarks.png")
        landmark_plots.draw_landmark_sample(files[-1], sample)
    return files


def _describe(
    subject: LandmarkSubject,
    request: EvaluationRequest,
    images: LandmarkImages,
    located: LocatedImages,
    metrics: dict[str, Any],
) -> dict[str, Any]:
    sound = [place for place, image in enumerate(located.images) if is_sound(image)]
    return {
        **subject.describe(),
        "split": request.split,
        "data": {
            "format": str(images.format),
            "digest": images.digest,
            "images": len(images.images),
            "persons": len({image.person for image in images.images}),
            "faulty": [image.source for image in images.images if not is_sound(image)],
            "unreadable": sorted(each.path.relative_to(request.data_dir).as_posix() for each in images.unreadable),
            "missing": sorted(images.missing),
            "excluded": sorted(images.excluded),
        },
        "bootstrap": {"replicates": request.bootstrap, "resampled": "persons"},
        "figures": {
            "all": _headlines(metrics),
            "without_faulty": _headlines(located.chosen(sound).measured(request.bootstrap)) if sound else None,
        },
    }


def _headlines(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: metrics[name] for name in ("n", *HEADLINES, "intervals")}


def say(evaluation: Evaluation) -> None:
    """Print what a person wants to know first."""
    metrics, description = evaluation.metrics, evaluation.description
    data, sound = description["data"], description["figures"]["without_faulty"]
    CONSOLE.print(
        f"{description['subject']} on {description['split']}: {data['images']} images of {data['persons']} persons, "
        f"{metrics['landmarks']} landmarks"
    )
    for name in HEADLINES:
        beside = f"   without faulty rows {in_words(sound, name)}" if data["faulty"] and sound else ""
        CONSOLE.print(f"  {name:<12} {in_words(metrics, name):<30}{beside}".rstrip())
    if metrics["columns"]:
        CONSOLE.print(f"  {'columns':<12} {columns_in_words(metrics['columns'])}")
    if data["digest"] == description.get("training_data_digest"):
        CONSOLE.print(
            "These are the images of its training: the figures are too good. See its model card or its folds."
        )
    for key, what in (
        ("faulty", "images whose landmarks or angles are faulty, see check-data"),
        ("unreadable", "unreadable files left out"),
        ("missing", "files named by the table, but missing"),
    ):
        if data[key]:
            CONSOLE.print(f"{len(data[key])} {what}, e.g. {data[key][0]}")
    if data["excluded"]:
        CONSOLE.print(f"{len(data['excluded'])} excluded")
