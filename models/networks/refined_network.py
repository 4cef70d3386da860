"""A fitted heatmap network, and what looks again along the column that it finds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from torch import Tensor, nn

from models.networks.heatmap_network import HeatmapNetwork, Heatmaps
from models.networks.spine_lite import EfficientNetLitePyramid
from models.networks.vertebra_counting import Counted, VertebraCounter
from models.networks.vertebra_refinement import VertebraRefiner
from models.spine.schemas import LandmarkSchema

_KEPT: Final = ("_conv_stem", "_bn0", "_blocks.0")
_REFINER_BACKBONE: Final = "refiner.backbone."


class RefinedNetwork(HeatmapNetwork):
    """A fitted heatmap network, which stays as it is, and what counts and refines the vertebrae that it finds.

    Args:
        coarse: fitted.
        counter, refiner: of as many vertebrae as `coarse` has landmarks of.
    """

    def __init__(self, coarse: HeatmapNetwork, counter: VertebraCounter, refiner: VertebraRefiner) -> None:
        super().__init__()
        self.coarse = coarse
        self.counter = counter
        self.refiner = refiner
        self.stride = coarse.stride
        self.freeze(("coarse",))

    def forward(self, x: Tensor) -> Heatmaps:
        """Give the heatmaps of ``(N, 3, H, W)``, normalised, as `coarse` gives them."""
        heatmaps: Heatmaps = self.coarse(x)
        return heatmaps

    def again(self, image: Tensor, points: Tensor, mirrored: bool = False) -> Counted:
        """Count the vertebrae that were found, and look at each of them.

        Args:
            image: ``(N, 1, H, W)`` in [0, 1].
            points: ``(N, 4 V, 2)``, input pixels, corners in the order of a schema.
            mirrored: look at mirror images too, and take the mean.

        Returns:
            better corners, and how sure the counter is of each vertebra.
        """
        there: Counted = self.counter(image, points, mirrored)
        return there._replace(points=self.refiner(image, there.points, mirrored))

    def backbone_parameters(self) -> Iterator[nn.Parameter]:
        """Give those of the refiner's backbone."""
        return (weight for name, weight in self._fitted() if name.startswith(_REFINER_BACKBONE))

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Give the others of counter and refiner."""
        return (weight for name, weight in self._fitted() if not name.startswith(_REFINER_BACKBONE))


def refined(coarse: HeatmapNetwork, schema: LandmarkSchema) -> RefinedNetwork:
    """Put a counter and a refiner that are not fitted behind a network of a frontal column.

    The refiner starts with the backbone of the network where that has the same one, and keeps the first layers of it:
    they take half of the time of a step, and edges are edges.

    Args:
        coarse: fitted; stays as it is.
        schema: of its landmarks, one that `models.networks.vertebra_alignment.can_align` takes.
    """
    vertebrae = len(schema.vertebrae)
    refiner = VertebraRefiner(vertebrae)
    network = RefinedNetwork(coarse, VertebraCounter(vertebrae), refiner)
    backbone = getattr(coarse, "backbone", None)
    if isinstance(backbone, EfficientNetLitePyramid):
        fitted = backbone.state_dict()
        refiner.backbone.load_state_dict({name: fitted[name] for name in refiner.backbone.state_dict()})
        network.freeze([f"{_REFINER_BACKBONE}{part}" for part in _KEPT])
    return network
