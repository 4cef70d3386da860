"""Training of the two-class tasks: read, split, fit, calibrate, measure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from models.networks.table import network_entry
from training.classes import classes_of
from training.datasets.labelled import LabelledImage, LabelledImages, read_labelled
from training.datasets.radiographs import InputCache
from training.datasets.splits import Split, kfold_by_person, split_by_person
from training.fit import fit, starting_network
from training.fitted import Model
from training.folds import summarise_folds
from training.measure import calibrate_and_measure
from training.procedure import Procedure
from training.progress import CONSOLE, track
from training.run import RunDirectory, load_weights
from training.settings import TrainSettings, plan_of, with_plan


class Classification(Procedure[TrainSettings, LabelledImages, Split]):
    """Tasks `pneumonia` and `normality`."""

    settings_class = TrainSettings

    def decide(self, settings: TrainSettings) -> TrainSettings:
        """Fill in the network's recipe."""
        classes_of(settings.task)
        return with_plan(settings, plan_of(settings, network_entry(settings.network)))

    def try_network(self, settings: TrainSettings) -> None:
        """Build the network."""
        entry = network_entry(settings.network)
        starting_network(settings, plan_of(settings, entry), entry, len(classes_of(settings.task)))

    def read(self, settings: TrainSettings) -> LabelledImages:
        """Read the images of the split that is learnt from."""
        images = read_labelled(
            settings.data_dir,
            classes_of(settings.task),
            format=settings.format,
            labels_csv=settings.labels_csv,
            split=settings.split,
            limit=settings.limit,
            progress=lambda files: track(files, len(files), "reading images"),
        )
        if images.unreadable:
            CONSOLE.print(f"{len(images.unreadable)} unreadable files left out, e.g. {images.unreadable[0]}")
        return images

    def split(self, settings: TrainSettings, data: LabelledImages) -> list[Split]:
        """Split by person."""
        if settings.kfold is None:
            return [split_by_person(data.images, settings.val_fraction, settings.seed)]
        return kfold_by_person(data.images, settings.kfold, settings.seed)

    def held_out(self, sides: Split) -> Collection[str]:
        """Give the pixel hashes of the validation side."""
        return {image.pixels_sha256 for image in sides.validation}

    def record(self, run: RunDirectory, data: LabelledImages, sides: Split, how: dict[str, Any]) -> None:
        """Write ``data.json``."""
        run.write_data(data, sides, how)
        for name, side in (("train", sides.train), ("validation", sides.validation)):
            CONSOLE.print(f"{name}: {_counted(side, data.labels)}")

    def find(self, run: RunDirectory, settings: TrainSettings) -> Split:
        """Find the images by ``data.json``."""
        return Split(*(run.read_images(side, settings.data_dir) for side in ("train", "validation")))

    def fit_and_measure(self, settings: TrainSettings, sides: Split, run: RunDirectory) -> None:
        """Fit, calibrate on who was held out, and measure both views."""
        entry, labels = network_entry(settings.network), classes_of(settings.task)
        plan = plan_of(settings, entry)
        cache = None
        if settings.cache_mb:
            cache = InputCache((*sides.train, *sides.validation), plan.input_spec, settings.cache_mb * 1024**2)
        best = fit(settings, plan, entry, sides, run, classes=len(labels), cache=cache)
        run.write_weights(best.weights)
        network = entry.build(len(labels), False)
        load_weights(network, best.weights, run.path)
        calibrate_and_measure(run, settings, plan, Model(entry, network), sides.validation, best.epoch, cache)

    def summarise(self, run: RunDirectory, folds: Sequence[RunDirectory], settings: TrainSettings) -> None:
        """Write ``metrics_kfold.json`` and its curves."""
        summarise_folds(run, folds, settings)


def _counted(images: Sequence[LabelledImage], labels: Sequence[str]) -> str:
    persons = len({image.person for image in images})
    classes = ", ".join(
        f"{sum(image.label == index for image in images)} {label}" for index, label in enumerate(labels)
    )
    return f"{len(images)} images of {persons} persons ({classes})"
