"""Training of task landmarks: read, split, fit, measure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from models.errors import ConfigurationError
from models.networks.heatmap_table import heatmap_entry
from models.spine.schemas import SCHEMAS
from training.datasets.exclusions import check_exclusions
from training.datasets.landmark_images import LandmarkImages, read_landmark_images
from training.datasets.landmark_splits import LandmarkSplit, kfold_landmarks, split_landmarks
from training.landmark_fit import fit_landmarks
from training.landmark_fitted import schema_of_run, starting_landmark_network
from training.landmark_measure import measure_landmarks, summarise_landmark_folds
from training.landmark_module import SIDES, measured_on
from training.landmark_run import landmark_counts, read_landmark_split, write_landmark_data
from training.landmark_settings import (
    LandmarkTrainSettings,
    landmark_plan_of,
    with_landmark_plan,
    with_schema,
)
from training.procedure import Procedure
from training.progress import CONSOLE, track
from training.run import RunDirectory


class Landmarks(Procedure[LandmarkTrainSettings, LandmarkImages, LandmarkSplit]):
    """Task `landmarks`."""

    settings_class = LandmarkTrainSettings

    def decide(self, settings: LandmarkTrainSettings) -> LandmarkTrainSettings:
        """Fill in the recipe."""
        if settings.gradient_checkpointing:
            raise ConfigurationError("gradient-checkpointing: landmark networks cannot; take a smaller --batch-size")
        return with_landmark_plan(settings, landmark_plan_of(settings, heatmap_entry(settings.network)))

    def try_network(self, settings: LandmarkTrainSettings) -> None:
        """Build the network; the schema, which the data decides, changes its last layer alone."""
        plan = landmark_plan_of(settings, heatmap_entry(settings.network))
        schema = SCHEMAS["aasce68"] if settings.init_from is None else schema_of_run(RunDirectory(settings.init_from))
        starting_landmark_network(settings, plan, schema).freeze(plan.freeze)

    def read(self, settings: LandmarkTrainSettings) -> LandmarkImages:
        """Read the images."""
        images = read_landmark_images(
            settings.data_dir,
            format=settings.format,
            split=settings.split,
            exclude=settings.exclude,
            progress=lambda paths: track(paths, len(paths), "reading images"),
        )
        with_schema(settings, images.schema)  # a flip that cannot be is said before anything is fitted
        for what, names in (
            ("unreadable", [str(each) for each in images.unreadable]),
            ("missing", images.missing),
            ("excluded", images.excluded),
            ("doubtfully labelled", [f"{image.source} ({', '.join(image.faults)})" for image in images.faulty]),
        ):
            if names:
                CONSOLE.print(f"{len(names)} {what} files left out, e.g. {names[0]}")
        check_exclusions(settings.exclude, images.excluded)
        return images.limited(settings.limit)

    def split(self, settings: LandmarkTrainSettings, data: LandmarkImages) -> list[LandmarkSplit]:
        """Split by person."""
        if settings.kfold is None:
            return [split_landmarks(data.images, settings.val_fraction, settings.seed)]
        return kfold_landmarks(data.images, settings.kfold, settings.seed)

    def held_out(self, sides: LandmarkSplit) -> Collection[str]:
        """Give the pixel hashes of the validation side."""
        return {image.pixels_sha256 for image in sides.validation}

    def record(self, run: RunDirectory, data: LandmarkImages, sides: LandmarkSplit, how: dict[str, Any]) -> None:
        """Write ``data.json``, and the settings again, now that the schema is known."""
        write_landmark_data(run, data, sides, how)
        run.write_settings(with_schema(run.read_settings_as(LandmarkTrainSettings), data.schema))
        for name, side in zip(SIDES, (sides.train, sides.validation), strict=True):
            counts = landmark_counts(side)
            CONSOLE.print(f"{name}: {', '.join(f'{number} {what}' for what, number in counts.items())}")

    def find(self, run: RunDirectory, settings: LandmarkTrainSettings) -> LandmarkSplit:
        """Find the images by ``data.json``."""
        return read_landmark_split(run, settings.data_dir)

    def fit_and_measure(self, settings: LandmarkTrainSettings, sides: LandmarkSplit, run: RunDirectory) -> None:
        """Fit, and measure who was held out, or everybody."""
        schema = schema_of_run(run)
        settings = with_schema(settings, schema)
        plan = landmark_plan_of(settings, heatmap_entry(settings.network))
        run.write_weights(fit_landmarks(settings, plan, sides, schema, run).weights)
        measure_landmarks(run, settings, sides.validation or sides.train, measured_on(sides))

    def summarise(self, run: RunDirectory, folds: Sequence[RunDirectory], settings: LandmarkTrainSettings) -> None:
        """Write ``metrics_kfold.json``."""
        summarise_landmark_folds(run, folds, settings)
