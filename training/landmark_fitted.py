"""A landmark network in memory: how it is built and started, and how it is asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from models.errors import ConfigurationError
from models.networks.heatmap_network import HeatmapNetwork, Heatmaps
from models.networks.heatmap_table import HeatmapEntry, heatmap_entry
from models.networks.refined_network import RefinedNetwork, refined
from models.networks.vertebra_alignment import can_align
from models.pixels.spec import InputSpec
from models.spine.schemas import LandmarkSchema, landmark_schema
from training.fitted import Normalised
from training.landmark_served import ServedLandmarks
from training.landmark_settings import LandmarkPlan, LandmarkTrainSettings, landmark_plan_of
from training.run import RunDirectory, load_weights


class LandmarkModel(Normalised):
    """A landmark network behind its normalisation."""

    network: HeatmapNetwork

    def __init__(self, entry: HeatmapEntry, schema: LandmarkSchema, network: HeatmapNetwork) -> None:
        super().__init__(entry.mean, entry.std, network)
        self.entry = entry
        self.schema = schema

    def heatmaps(self, image: Tensor) -> Heatmaps:
        """Give the network's heatmaps of ``(N, 1, H, W) float32 in [0, 1]``."""
        heatmaps: Heatmaps = self.network(self.normalised(image))
        return heatmaps


@dataclass(frozen=True, slots=True)
class FittedLandmarks:
    """A network of a run, in eval mode.

    Attributes:
        served: what is exported of it.
    """

    served: ServedLandmarks
    entry: HeatmapEntry
    schema: LandmarkSchema
    input_spec: InputSpec


def starting_landmark_network(
    settings: LandmarkTrainSettings, plan: LandmarkPlan, schema: LandmarkSchema
) -> HeatmapNetwork:
    """Build the network with the weights that a new run starts from.

    Raises:
        ConfigurationError: they cannot be had, or are of another network or schema.
    """
    if settings.init_from is None:
        return heatmap_entry(settings.network).build(schema, plan.pretrained, settings.weights)
    start = RunDirectory(settings.init_from)
    was_refined = start.read_settings_as(LandmarkTrainSettings).refine
    network = empty_landmark_network(settings.model_copy(update={"refine": was_refined}), schema)
    load_weights(network, start.read_weights(), settings.init_from)
    if settings.refine == was_refined:
        return network
    if was_refined:
        raise ConfigurationError(f"{settings.init_from}: is refined already; start from the run that it was made of")
    return _refined(network, schema)


def empty_landmark_network(settings: LandmarkTrainSettings, schema: LandmarkSchema) -> HeatmapNetwork:
    """Build the network of a run with random weights.

    Raises:
        ConfigurationError: it is to be refined, and its landmarks are not those of a frontal column.
    """
    network = heatmap_entry(settings.network).build(schema, False)
    return _refined(network, schema) if settings.refine else network


def _refined(network: HeatmapNetwork, schema: LandmarkSchema) -> RefinedNetwork:
    if not can_align(schema):
        raise ConfigurationError(f"refine: {schema.name} has no long column of vertebrae, seen from the front")
    return refined(network, schema)


def schema_of_run(run: RunDirectory) -> LandmarkSchema:
    """Give the schema that a run was fitted to.

    Raises:
        ConfigurationError: this is no such run.
    """
    return landmark_schema(str(run.read_json("data.json").get("schema")))


def load_fitted_landmarks(path: Path) -> FittedLandmarks:
    """Build the network of a run of task landmarks, in eval mode on the CPU.

    Args:
        path: run directory, or one of its ``.ckpt`` files.

    Raises:
        ConfigurationError: there is no such run, it has no weights, or they are of another network.
    """
    run = RunDirectory(path)
    settings = run.read_settings_as(LandmarkTrainSettings)
    entry, schema = heatmap_entry(settings.network), schema_of_run(run)
    network = empty_landmark_network(settings, schema)
    load_weights(network, run.read_weights(), path)
    plan = landmark_plan_of(settings, entry)
    served = served_landmarks(settings, plan, entry, schema, network)
    return FittedLandmarks(served.eval(), entry, schema, plan.input_spec)


def served_landmarks(
    settings: LandmarkTrainSettings,
    plan: LandmarkPlan,
    entry: HeatmapEntry,
    schema: LandmarkSchema,
    network: HeatmapNetwork,
) -> ServedLandmarks:
    """Put what is served of a network around it."""
    return ServedLandmarks(
        entry,
        schema,
        network,
        is_logits=plan.loss == "softmax",
        mirrored=settings.mirrored,
        alignment=settings.alignment,
        chained=settings.chained,
    )
