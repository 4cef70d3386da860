"""Every network of the tables as a version of it would be: the module that is exported, its input and its outputs.

Weights are random (torch's generator), but for what was shipped, whose file is the shipped one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from models.networks.heatmap_table import HEATMAP_NETWORKS, heatmap_entry
from models.networks.rad_dino import RadDinoBackbone
from models.networks.refined_network import refined
from models.networks.table import NETWORKS, network_entry
from models.networks.torchvision_shim import prepare_torchvision
from models.networks.zone_network import ZoneFeatures, ZoneNetwork
from models.networks.zone_table import ZONE_BACKBONES, zone_backbone
from models.pixels.spec import InputSpec
from models.settings import Settings, load
from models.spine.schemas import landmark_schema
from models.store.manifest import Manifest
from models.store.store import ModelStore, ModelVersion
from models.tasks import Task
from training.landmark_served import LANDMARK_OUTPUTS, ServedLandmarks
from training.onnx_file import export_onnx, store_in_half_precision
from training.served import OUTPUT_NAMES, ServedNetwork
from training.zone_served import ServedZoneNetwork

SCHEMA = "aasce68"


@dataclass(frozen=True)
class Subject:
    """A network, ready to be exported.

    Attributes:
        module: with softmax, Grad-CAM or the decoding of landmarks behind it, in eval mode.
        foldable: whether batch-norm must be gone from the graph.
        shipped: the version whose file takes the place of what would be exported; its weights are not the module's.
    """

    module: nn.Module
    spec: InputSpec
    outputs: tuple[str, ...]
    foldable: bool = True
    shipped: ModelVersion | None = None

    def exported(self) -> bytes:
        """Give ``network.onnx``.

        Raises:
            ExportError: the module cannot be exported.
        """
        if self.shipped is not None:
            return self.shipped.network_path.read_bytes()
        proto = export_onnx(self.module, self.spec, self.outputs, foldable=self.foldable)
        content: bytes = store_in_half_precision(proto).SerializeToString()
        return content


def subjects() -> dict[str, Callable[[], Subject]]:
    """Give every network by task and name, and how to make it; what was shipped comes first."""
    store = ModelStore(load(Settings).model_store)
    found: dict[str, Callable[[], Subject]] = {}
    for task in Task:
        for version in store.versions(task):
            found[f"shipped/{task}/{version}"] = partial(_shipped, store, task, version)
    found |= {f"pneumonia/{name}": partial(classes, name) for name in NETWORKS}
    found |= {f"csi/{name}": partial(zones, name) for name in ZONE_BACKBONES}
    found["csi/efficientnet_lite0/masked"] = partial(zones, "efficientnet_lite0", ZoneFeatures.MASKED)
    found["csi/efficientnet_lite0/global"] = partial(zones, "efficientnet_lite0", ZoneFeatures.GLOBAL)
    found |= {f"landmarks/{name}": partial(landmarks, name) for name in HEATMAP_NETWORKS}
    return found


def classes(name: str, side: int | None = None) -> Subject:
    """Make a network of task pneumonia."""
    entry = network_entry(name)
    module = ServedNetwork(entry, entry.build(2, False), 1.0, 1)
    return Subject(module.eval(), _square(side or entry.image_size), OUTPUT_NAMES)


def zones(name: str, features: ZoneFeatures = ZoneFeatures.SPATIAL, side: int | None = None) -> Subject:
    """Make one member of task csi, with its mirror image."""
    entry = zone_backbone(name)
    backbone = entry.build(False, None) if entry.has_shape else _rad_dino()
    module = ServedZoneNetwork(entry, [ZoneNetwork(backbone, features)], mirrored=True)
    return Subject(module.eval(), _square(side or entry.image_size), OUTPUT_NAMES, entry.foldable)


def landmarks(name: str, side: int | None = None) -> Subject:
    """Make a network of task landmarks with everything that is done to a frontal whole spine."""
    entry, schema = heatmap_entry(name), landmark_schema(SCHEMA)
    module = ServedLandmarks(
        entry,
        schema,
        entry.build(schema, False),
        is_logits=entry.loss == "softmax",
        mirrored=True,
        alignment=1.0,
        chained=True,
    )
    return Subject(module.eval(), _square(side or entry.image_size), LANDMARK_OUTPUTS)


def in_pytorch(manifest: Manifest) -> nn.Module:
    """Build what a version was exported from, at random weights."""
    data = manifest.training_data
    if manifest.task is Task.LANDMARKS:
        entry, schema = heatmap_entry(manifest.network), landmark_schema(data["schema"])
        network = entry.build(schema, False)
        return ServedLandmarks(
            entry,
            schema,
            refined(network, schema) if data.get("refined") else network,
            is_logits=entry.loss == "softmax",
            mirrored=data["mirrored"],
            alignment=data["alignment"],
            chained=data.get("chained", False),
        )
    if manifest.task is not Task.CSI:
        classifier = network_entry(manifest.network)
        return ServedNetwork(classifier, classifier.build(len(manifest.labels), False), 1.0, 1)
    backbone, features = zone_backbone(manifest.network), ZoneFeatures(data["zones"])
    members = [ZoneNetwork(backbone.build(False, None), features) for _ in range(data["members"])]
    return ServedZoneNetwork(backbone, members, mirrored=data["mirrored"])


def _shipped(store: ModelStore, task: Task, name: str) -> Subject:
    version = store.open(task, name)
    manifest = version.manifest
    return Subject(in_pytorch(manifest).eval(), manifest.input_spec, tuple(manifest.output_names), shipped=version)


def _rad_dino() -> RadDinoBackbone:
    """Build the shape of RAD-DINO; its weights are not ours to have."""
    prepare_torchvision()
    from transformers import Dinov2Config, Dinov2Model

    return RadDinoBackbone(Dinov2Model(Dinov2Config(image_size=518)))


def _square(side: int) -> InputSpec:
    return InputSpec(height=side, width=side)
