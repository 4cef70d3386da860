"""`python -m training evaluate --task csi`: zone scores of a version or a checkpoint, measured against a reader.

::

    metrics_<split>.json              measures with 95 % intervals, see `training.zone_evaluation.zone_metrics`
    evaluation_<split>.json           what was evaluated, on which images; what a second reader reaches on them
    predictions_<split>.csv           per image and zone: everything that the measures were made from
    confusion_matrix_<split>.png, confusion_matrix_zones_<split>.png, mean_csi_<split>.png, agreement_<split>.png
    grad_cam_samples/sample_<i>_<file>_cam.png    from the worst answer to the best

The first reader is the one to be measured against, the senior where there are two. A mean CSI is over the zones that
this reader graded, for otherwise two means would be of different zones. The same subject on the same images gives the
same bytes: no times, no paths. An evaluation is repeated in place.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from models.pixels.lung_fields import Frame
from models.pixels.radiograph import Radiograph
from models.pixels.resize import fitted_size
from models.pixels.spec import Framing, InputSpec
from models.zones import ZONES, Congestion
from training.datasets.exclusions import check_exclusions
from training.datasets.listing import spread
from training.datasets.reading import read_radiograph
from training.datasets.zone_images import ZoneImages, read_zone_images
from training.evaluate import (
    Evaluation,
    EvaluationRequest,
    check_split_name,
    empty_samples_folder,
    in_words,
    make_directory,
    safe_name,
)
from training.evaluation import DECIMALS, Floats, write_metrics
from training.graded_images import (
    GradedImages,
    SecondReader,
    grade_all,
    mean_scores,
    measure_second_reader,
    zone_errors,
)
from training.progress import CONSOLE, track
from training.zone_evaluation import HEADLINES, zone_metrics
from training.zone_subjects import ZoneSubject

_DISPLAY_SIDE: Final = 512


@dataclass(frozen=True, slots=True)
class ZoneEvaluationRequest(EvaluationRequest):
    """What is asked for.

    A set of zone scores has no splits, so `split` is but a name in the files; `limit` is of the whole set.

    Attributes:
        exclude: FileIDs, or names of files, to leave out.
    """

    exclude: tuple[str, ...] = ()


def evaluate_zones(subject: ZoneSubject, request: ZoneEvaluationRequest) -> Evaluation:
    """Grade the zones of every image and write the files.

    Raises:
        ConfigurationError: the data or the output directory cannot be used.
        Transient: the engine failed.
    """
    check_split_name(request.split)
    # 1. Images, before anything is written.
    images = _read(request)
    make_directory(request.output_dir)
    # 2. Answers and measures.
    graded = grade_all(subject, images.images, request.batch_size, request.num_workers)
    metrics = zone_metrics(graded.truth, graded.answers, groups=graded.persons, bootstrap=request.bootstrap)
    beside = measure_second_reader(graded, metrics, request.bootstrap)
    # 3. Files.
    files = [_path(request, "metrics", "json"), _path(request, "predictions", "csv")]
    write_metrics(files[0], metrics)
    write_predictions(files[1], graded)
    files += _draw(subject, request, graded, metrics, beside)
    pictures = _draw_samples(subject, request, graded)
    description = _describe(subject, request, images, graded, beside)
    described = _path(request, "evaluation", "json")
    write_metrics(described, description)
    return Evaluation(metrics, description, (*files, described, *pictures))


def _path(request: EvaluationRequest, name: str, suffix: str) -> Path:
    return request.output_dir / f"{name}_{request.split}.{suffix}"


def _read(request: ZoneEvaluationRequest) -> ZoneImages:
    images = read_zone_images(
        request.data_dir,
        format=request.format,
        labels_csv=request.labels_csv,
        exclude=frozenset(request.exclude),
        progress=lambda paths: track(paths, len(paths), "reading images"),
    )
    check_exclusions(request.exclude, images.excluded)
    return images.limited(spread(images.images, request.limit))


def write_predictions(path: Path, graded: GradedImages) -> None:
    """Write a row per image: file and person, then of each zone what was answered and read, then the mean CSI.

    ``graded`` is the score were the zone gradable; it differs from ``called`` where that is 4, ungradable.
    """
    readers = max(len(image.readers) for image in graded.images)
    per_zone = ("called", "graded", "expected", "reader", *(["second_reader"] if readers > 1 else []))
    means = (mean_scores(graded.zones.graded, graded.truth), mean_scores(graded.truth, graded.truth))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        columns = (f"{what}_{zone}" for what in per_zone for zone in ZONES)
        writer.writerow(["file", "person", *columns, "mean_csi", "reader_mean_csi"])
        for place, image in enumerate(graded.images):
            cells = [*_zone_cells(graded, place, readers), *(_cell(mean[place]) for mean in means)]
            writer.writerow([image.source, image.person, *cells])


def _zone_cells(graded: GradedImages, place: int, readers: int) -> Iterator[str]:
    for grades in (graded.zones.called, graded.zones.graded):
        yield from (str(grade) for grade in grades[place])
    yield from (_cell(score) for score in graded.zones.expected[place])
    for reader in range(readers):
        said = graded.images[place].readers
        yield from (str(int(grade)) for grade in said[reader]) if reader < len(said) else [""] * len(ZONES)


def _cell(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.{DECIMALS}f}"


def _draw(
    subject: ZoneSubject,
    request: EvaluationRequest,
    graded: GradedImages,
    metrics: dict[str, Any],
    beside: SecondReader | None,
) -> list[Path]:
    from training import zone_plots

    title = f"{subject.name}, {request.split} (n = {len(graded.images)})"
    names = ("confusion_matrix", "confusion_matrix_zones", "mean_csi", "agreement")
    matrix, matrices, means, agreement = files = [_path(request, name, "png") for name in names]
    zone_plots.draw_zone_confusion(matrix, metrics, title)
    zone_plots.draw_zone_confusions(matrices, metrics, title)
    reader, network = mean_scores(graded.truth, graded.truth), mean_scores(graded.zones.graded, graded.truth)
    known = ~np.isnan(reader)
    zone_plots.draw_mean_csi(means, reader[known], network[known], metrics, title)
    if beside is not None:
        title = f"{subject.name}, {request.split} (n = {beside.reader['n']})"
    rows = zone_plots.agreements(beside.network if beside else metrics, beside.reader if beside else None)
    zone_plots.draw_agreement(agreement, rows, title)
    return files


def choose_samples(error: Floats, count: int) -> list[int]:
    """Choose images to draw, spread evenly from the worst to the best: places, worst first."""
    known = np.flatnonzero(~np.isnan(error))
    worst_first = known[np.argsort(-error[known], kind="stable")]
    return [int(place) for place in spread(worst_first.tolist(), count)]


def _draw_samples(subject: ZoneSubject, request: EvaluationRequest, graded: GradedImages) -> list[Path]:
    from training import zone_plots

    folder = empty_samples_folder(request.output_dir)
    error = zone_errors(graded)
    chosen = choose_samples(error, request.samples)
    means = mean_scores(graded.zones.graded, graded.truth), mean_scores(graded.truth, graded.truth)
    files = []
    for number, place in enumerate(track(chosen, len(chosen), "drawing Grad-CAM samples")):
        image = graded.images[place]
        radiograph = read_radiograph(image.path, smallest_side=subject.input_spec.needed_side)
        pixels = radiograph.to_input(subject.input_spec)
        sample = zone_plots.ZoneSample(
            display=radiograph.to_display(_DISPLAY_SIDE),
            frame=frame_of_input(radiograph, subject.input_spec),
            cam=subject.answer(pixels[None, None]).cam[0],
            name=image.path.name,
            called=graded.zones.called[place].tolist(),
            expected=graded.zones.expected[place].tolist(),
            readers=image.readers,
            error=float(error[place]),
            mean_csi=(float(means[0][place]), float(means[1][place])),
        )
        files.append(folder / f"sample_{number:02d}_{safe_name(image.path)}_cam.png")
        zone_plots.draw_zone_sample(files[-1], sample)
    return files


def frame_of_input(radiograph: Radiograph, spec: InputSpec) -> Frame:
    """Give where a network's input lies on the image; padding lies outside it."""
    if spec.framing is Framing.LUNGS:
        return radiograph.lung_fields.frame
    rows, columns = fitted_size(radiograph.stored.shape, spec)
    top, left = -((spec.height - rows) // 2) / rows, -((spec.width - columns) // 2) / columns
    return Frame(left, top, left + spec.width / columns, top + spec.height / rows)


def _describe(
    subject: ZoneSubject,
    request: EvaluationRequest,
    images: ZoneImages,
    graded: GradedImages,
    beside: SecondReader | None,
) -> dict[str, Any]:
    truth = graded.truth
    return {
        **subject.describe(),
        "split": request.split,
        "data": {
            "format": str(images.format),
            "digest": images.digest,
            "images": len(images.images),
            "persons": len(set(graded.persons)),
            "zones": {grade.name.lower(): int((truth == grade).sum()) for grade in Congestion},
            "lungs_not_found": [images.images[place].source for place in np.flatnonzero(~graded.lungs_found)],
            "unreadable": sorted(each.path.relative_to(request.data_dir).as_posix() for each in images.unreadable),
            "missing": sorted(images.missing),
            "excluded": sorted(images.excluded),
        },
        "bootstrap": {"replicates": request.bootstrap, "resampled": "persons"},
        **(_describe_second_reader(beside) if beside else {}),
    }


def _describe_second_reader(beside: SecondReader) -> dict[str, Any]:
    network = {name: beside.network[name] for name in ("n", *HEADLINES, "intervals")}
    return {"second_reader": beside.reader, "network_on_images_of_second_reader": network}


def say(evaluation: Evaluation) -> None:
    """Print what a person wants to know first."""
    metrics, description = evaluation.metrics, evaluation.description
    data, second = description["data"], description.get("second_reader")
    CONSOLE.print(
        f"{description['subject']} on {description['split']}: {data['images']} images of {data['persons']} persons, "
        f"{metrics['gradable']} zones graded by the reader"
    )
    for name in HEADLINES:
        beside = f"   second radiologist {in_words(second, name)}" if second else ""
        CONSOLE.print(f"  {name:<18} {in_words(metrics, name):<30}{beside}".rstrip())
    if data["digest"] == description.get("training_data_digest"):
        CONSOLE.print(
            "These are the images of its training: the figures are too good. See its model card or its folds."
        )
    if second and second["n"] < metrics["n"]:
        CONSOLE.print(f"  the second radiologist read {second['n']} of these images")
    for key, what in (
        ("unreadable", "unreadable files left out"),
        ("missing", "files named by the table, but missing"),
        ("lungs_not_found", "images without lungs that were found, taken whole"),
    ):
        if data[key]:
            CONSOLE.print(f"{len(data[key])} {what}, e.g. {data[key][0]}")
    if data["excluded"]:
        CONSOLE.print(f"{len(data['excluded'])} excluded")
