"""Synthetic sets, and small networks.

Class folders: noise is NORMAL, noise with a bright disc is PNEUMONIA. Zone scores: see `zone_sets`.
Landmarks: see `landmark_sets`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from landmark_sets import AasceWriter, write_landmark_version
from zone_sets import ZoneSetWriter, write_csi_version


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Compute in one thread, also in processes that tests start: networks are small, and files are tested side by side.

    More threads wait for each other by burning the cores, which made fitting take up to three times the CPU time.
    """
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="session", autouse=True)
def quick_exporter() -> Iterator[None]:
    """Spare torch's exporter what it does again and again, to the same end.

    It reads its operators once a session, which for small networks is most of every export. Patterns with several
    outputs are only looked for at nodes of the kind of their first; it lists the whole graph before it looks at that.
    """
    registration = pytest.importorskip("torch.onnx._internal.exporter._registration")
    matcher = pytest.importorskip("onnxscript.rewriter._matcher")
    basics = pytest.importorskip("onnxscript.rewriter._basics")
    simple = matcher.SimplePatternMatcher
    match = simple.match

    def match_where_it_can(self: Any, model: Any, graph: Any, node: Any, **options: Any) -> Any:
        if not self.pattern.has_single_output_node:
            kind = self.pattern.output_nodes[0].op_identifier()
            if kind is not None and kind != node.op_identifier():
                return basics.MatchResult().fail("No match found.")
        return match(self, model, graph, node, **options)

    with pytest.MonkeyPatch.context() as monkeypatch:
        registry = registration.ONNXRegistry
        monkeypatch.setattr(registry, "from_torchlib", staticmethod(cache(registry.from_torchlib)))
        monkeypatch.setattr(simple, "match", match_where_it_can)
        yield


def write_class_folders(directory: Path, per_class: int, seed: int = 0) -> Path:
    """Write `per_class` images per class, each of a person of its own."""
    random = np.random.default_rng(seed)
    for label in ("NORMAL", "PNEUMONIA"):
        (directory / label).mkdir(parents=True)
        for number in range(per_class):
            image = random.integers(0, 90, (80, 70)).astype(np.uint8)
            name = f"IM-{number:04d}-0001.jpeg"
            if label == "PNEUMONIA":
                cv2.circle(image, (int(random.integers(25, 45)), int(random.integers(25, 55))), 15, (220.0,), -1)
                name = f"person{number}_virus_{number}.jpeg"
            cv2.imwrite(str(directory / label / name), image)
    return directory


@pytest.fixture(scope="session")
def class_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images per class."""
    return write_class_folders(tmp_path_factory.mktemp("data") / "set", 12)


@pytest.fixture
def tiny_network(monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a network of two convolutions, in the table of networks for one test."""
    from torch import nn

    from models.networks.network import Backbone, PooledNetwork, Step
    from models.networks.recipe import Recipe
    from models.networks.table import NETWORKS, NetworkEntry

    class TinyBackbone(Backbone):
        channels = 8

        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.BatchNorm2d(8), nn.ReLU())
            self.second = nn.Sequential(nn.Conv2d(8, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU())

        def steps(self) -> list[Step]:
            return [self.first, self.second]

    entry = NetworkEntry(
        name="tiny",
        make=lambda classes, _: PooledNetwork(TinyBackbone(), classes, dropout=0.1),
        make_backbone=lambda _: TinyBackbone(),
        published=None,
        recipe=Recipe(lr=0.02, batch_size=4, epochs_scratch=6, scheduler="one_cycle"),
        category=frozenset(),
        image_size=40,
    )
    monkeypatch.setitem(NETWORKS, "tiny", entry)
    return "tiny"


@pytest.fixture(scope="session")
def csi_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose active version of task `csi` is 1.0.0, see `write_csi_version`."""
    store = tmp_path_factory.mktemp("store")
    write_csi_version(store / "csi" / "1.0.0")
    (store / "csi" / "active.json").write_text('{"active": "1.0.0", "shadow": null}')
    return store


@pytest.fixture
def zone_set(tmp_path: Path) -> ZoneSetWriter:
    """An empty set of zone scores."""
    return ZoneSetWriter(tmp_path / "zones")


@pytest.fixture
def brightness(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backbone of this name, see `zone_runs`, in the table of backbones for one test."""
    from zone_runs import Brightness

    from models.networks.zone_table import ZONE_BACKBONES, ZoneBackbone

    entry = ZoneBackbone("brightness", lambda pretrained, weights: Brightness(), pretrained=False, image_size=48)
    monkeypatch.setitem(ZONE_BACKBONES, "brightness", entry)


@pytest.fixture
def zones(zone_set: ZoneSetWriter) -> Path:
    """Thirty images of as many persons, whose zones' brightness is what both readers say, or nearly."""
    random = np.random.default_rng(0)
    for _ in range(30):
        grades = random.integers(0, 4, 6).tolist()
        other = [max(0, grade - 1) if random.random() < 0.2 else grade for grade in grades]
        zone_set.add(grades, grades, other)
    return zone_set.write_brixia()


@pytest.fixture(scope="session")
def landmark_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose active version of task `landmarks` is 1.0.0, see `write_landmark_version`."""
    store = tmp_path_factory.mktemp("store")
    write_landmark_version(store / "landmarks" / "1.0.0")
    (store / "landmarks" / "active.json").write_text('{"active": "1.0.0", "shadow": null}')
    return store


@pytest.fixture
def aasce(tmp_path: Path) -> AasceWriter:
    """An empty set of landmarks."""
    return AasceWriter(tmp_path / "spines")
