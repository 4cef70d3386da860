"""A zone network in memory: how it is built and started, and how it is asked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.errors import ConfigurationError
from models.networks.network import Backbone
from models.networks.table import network_entry
from models.networks.zone_network import ZoneFeatures, ZoneNetwork
from models.networks.zone_table import ZoneBackbone, zone_backbone
from models.pixels.spec import InputSpec
from models.tasks import Task
from training.fitted import Normalised, Weights
from training.run import RunDirectory, load_weights
from training.zone_calibration import ZoneCalibration
from training.zone_served import ServedZoneNetwork
from training.zone_settings import ZonePlan, ZoneTrainSettings

_HEAD_DEVIATION = 0.01


class ZoneModel(Normalised):
    """A zone network behind its normalisation; logits are ``(N, 6, 5)``."""

    network: ZoneNetwork

    def __init__(self, entry: ZoneBackbone, network: ZoneNetwork) -> None:
        super().__init__(entry.mean, entry.std, network)


@dataclass(frozen=True, slots=True)
class FittedZones:
    """A network of a run, in eval mode.

    Attributes:
        served: what is exported of it.
        entry: of its backbone.
    """

    served: ServedZoneNetwork
    entry: ZoneBackbone
    input_spec: InputSpec


def assemble(settings: ZoneTrainSettings, backbone: Backbone) -> ZoneNetwork:
    """Put heads on a backbone, as the settings say."""
    network = ZoneNetwork(backbone, ZoneFeatures(settings.zones), settings.dropout, settings.attenuation)
    for head in network.linear_heads:
        nn.init.normal_(head.weight, std=_HEAD_DEVIATION)
        nn.init.zeros_(head.bias)
    if settings.shared_heads:
        first = network.heads[0]
        for zone in range(1, len(network.heads)):
            network.heads[zone] = first
    return network


def empty_network(settings: ZoneTrainSettings) -> ZoneNetwork:
    """Build the network for weights that are loaded next.

    RAD-DINO's shape stands in its directory, which must still be there.

    Raises:
        ConfigurationError: that directory is gone.
    """
    entry = zone_backbone(settings.backbone)
    if not entry.has_shape:
        return assemble(settings, entry.build(True, settings.weights))
    return assemble(settings, entry.build(False, None))


def starting_zone_network(settings: ZoneTrainSettings, plan: ZonePlan) -> ZoneNetwork:
    """Build the network with the weights that a new run starts from.

    Raises:
        ConfigurationError: they cannot be had, or are of another backbone.
    """
    if settings.init_from is None:
        return assemble(settings, zone_backbone(settings.backbone).build(plan.pretrained, settings.weights))
    run = RunDirectory(settings.init_from)
    if run.task is Task.CSI:
        network = empty_network(settings)
        load_weights(network, weights_of_members(run)[0], settings.init_from)
        return network
    return assemble(settings, _backbone_of(run, settings))


def _backbone_of(run: RunDirectory, settings: ZoneTrainSettings) -> Backbone:
    """Take the backbone of a two-class run."""
    name = run.read_settings().network
    if name != settings.backbone:
        raise ConfigurationError(f"{run.path}: its network is {name}, but --backbone is {settings.backbone}")
    network = network_entry(name).build(len(run.read_json("data.json")["labels"]), False)
    load_weights(network, run.read_weights(), run.path)
    return network.backbone


def load_fitted_zones(path: Path, calibration: ZoneCalibration | None = None) -> FittedZones:
    """Build the network of a run of task csi, in eval mode on the CPU.

    Args:
        path: run directory, or one of its ``.ckpt`` files.
        calibration: in place of the run's own.

    Raises:
        ConfigurationError: there is no such run, it has no weights, or they are of another network.
    """
    from training.zone_run import read_zone_calibration, read_zone_settings
    from training.zone_settings import zone_plan_of

    run = RunDirectory(path)
    settings = read_zone_settings(run)
    entry = zone_backbone(settings.backbone)
    members = []
    for weights in weights_of_members(run):
        members.append(empty_network(settings))
        load_weights(members[-1], weights, path)
    own = read_zone_calibration(run) if calibration is None else calibration
    served = ServedZoneNetwork(entry, members, mirrored=settings.mirrored, calibration=own).eval()
    return FittedZones(served, entry, zone_plan_of(settings, entry).input_spec)


def join_members(members: Sequence[Weights]) -> Weights:
    """Put the state dicts of a run's networks into one; each name begins with the member's number."""
    return {f"{number}.{name}": tensor for number, member in enumerate(members) for name, tensor in member.items()}


def weights_of_members(run: RunDirectory) -> list[Weights]:
    """Give the state dict of each network of a run; a checkpoint has one.

    Raises:
        ConfigurationError: there are no weights.
    """
    weights = run.read_weights()
    if not all(name.partition(".")[0].isdecimal() for name in weights):
        return [weights]
    members: dict[int, Weights] = {}
    for name, tensor in weights.items():
        number, _, own = name.partition(".")
        members.setdefault(int(number), {})[own] = tensor
    return [members[number] for number in sorted(members)]


def zone_probabilities(served: ServedZoneNetwork, batches: Iterable[tuple[Tensor, Any]]) -> NDArray[np.float64]:
    """Give the probabilities ``(N, 6, 5)`` of every batch of images."""
    served.eval()
    with torch.inference_mode():
        return np.concatenate([served(image)[0].double().numpy() for image, _ in batches])
