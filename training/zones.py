"""Training of task csi: read, split, fit, measure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from models.networks.zone_table import zone_backbone
from training.datasets.exclusions import check_exclusions
from training.datasets.listing import spread
from training.datasets.zone_images import ZoneImages, read_zone_images
from training.datasets.zone_splits import ZoneSplit, kfold_zones, split_zones
from training.fitted import Weights
from training.procedure import Procedure
from training.progress import CONSOLE, track
from training.run import RunDirectory
from training.zone_calibration import UNCALIBRATED
from training.zone_fit import fit_zones
from training.zone_fitted import join_members, load_fitted_zones, starting_zone_network
from training.zone_measure import measure_zones, summarise_zone_folds
from training.zone_module import measured_on
from training.zone_run import SIDES, read_split, write_zone_data, zone_counts
from training.zone_settings import ZonePlan, ZoneTrainSettings, with_zone_plan, zone_plan_of


class Zones(Procedure[ZoneTrainSettings, ZoneImages, ZoneSplit]):
    """Task `csi`."""

    settings_class = ZoneTrainSettings

    def decide(self, settings: ZoneTrainSettings) -> ZoneTrainSettings:
        """Fill in the recipe."""
        return with_zone_plan(settings, zone_plan_of(settings, zone_backbone(settings.backbone)))

    def try_network(self, settings: ZoneTrainSettings) -> None:
        """Build the network."""
        starting_zone_network(settings, zone_plan_of(settings, zone_backbone(settings.backbone)))

    def read(self, settings: ZoneTrainSettings) -> ZoneImages:
        """Read the images."""
        images = read_zone_images(
            settings.data_dir,
            format=settings.format,
            labels_csv=settings.labels_csv,
            exclude=settings.exclude,
            progress=lambda paths: track(paths, len(paths), "reading images"),
        )
        for what, names in (
            ("unreadable", [str(each) for each in images.unreadable]),
            ("missing", images.missing),
            ("excluded", images.excluded),
        ):
            if names:
                CONSOLE.print(f"{len(names)} {what} files left out, e.g. {names[0]}")
        check_exclusions(settings.exclude, images.excluded)
        return images.limited(spread(images.images, settings.limit))

    def split(self, settings: ZoneTrainSettings, data: ZoneImages) -> list[ZoneSplit]:
        """Split by person."""
        if settings.kfold is None:
            return [split_zones(data.images, settings.val_fraction, settings.seed)]
        return kfold_zones(data.images, settings.kfold, settings.seed)

    def held_out(self, sides: ZoneSplit) -> Collection[str]:
        """Give the pixel hashes of the validation side."""
        return {image.pixels_sha256 for image in sides.validation}

    def record(self, run: RunDirectory, data: ZoneImages, sides: ZoneSplit, how: dict[str, Any]) -> None:
        """Write ``data.json``."""
        write_zone_data(run, data, sides, how)
        for name, side in zip(SIDES, (sides.train, sides.validation), strict=True):
            CONSOLE.print(f"{name}: {', '.join(f'{number} {what}' for what, number in zone_counts(side).items())}")

    def find(self, run: RunDirectory, settings: ZoneTrainSettings) -> ZoneSplit:
        """Find the images by ``data.json``."""
        return read_split(run, settings.data_dir)

    def fit_and_measure(self, settings: ZoneTrainSettings, sides: ZoneSplit, run: RunDirectory) -> None:
        """Fit, and measure who was held out, or everybody."""
        plan = zone_plan_of(settings, zone_backbone(settings.backbone))
        if settings.members == 1:
            members = [fit_zones(settings, plan, sides, run).weights]
        else:
            members = _fit_members(settings, plan, sides, run)
        run.write_weights(join_members(members))
        served = load_fitted_zones(run.path, UNCALIBRATED).served
        measure_zones(run, settings, plan, served, sides.validation or sides.train, measured_on(sides))

    def summarise(self, run: RunDirectory, folds: Sequence[RunDirectory], settings: ZoneTrainSettings) -> None:
        """Write ``metrics_kfold.json``."""
        summarise_zone_folds(run, folds, settings)


def _fit_members(settings: ZoneTrainSettings, plan: ZonePlan, sides: ZoneSplit, run: RunDirectory) -> list[Weights]:
    """Fit networks that differ in what was drawn, each in a directory of its own; finished ones stand."""
    fitted = []
    for number in range(settings.members):
        member = RunDirectory(run.path / f"member-{number}")
        if not (member.path / "weights.pt").is_file():
            member.path.mkdir(exist_ok=True)
            CONSOLE.print(f"member {number + 1} of {settings.members}")
            own = settings.model_copy(update={"members": 1, "output_dir": member.path})
            member.write_settings(own)
            member.write_weights(fit_zones(own, plan, sides, member, draws=number).weights)
        fitted.append(member.read_weights())
    return fitted
