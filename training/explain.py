"""Offline explanations of one image, at any layer, by the packages grad-cam and Captum.

What is served is the closed form of `models.networks.network`; this module is what it is checked against, and offers
what a graph cannot hold: other layers, and methods that need gradients or many passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, Final, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.errors import ConfigurationError
from models.networks.network import ClassificationNetwork
from models.networks.torchvision_shim import prepare_torchvision

Map = NDArray[np.float32]

_HOTTEST: Final = 99.5  # percentile of an attribution that becomes 1, or a single pixel would take all the scale
_INTEGRATION_STEPS: Final = 32
_NOISY_COPIES: Final = 16
_NOISE: Final = 0.1  # standard deviation of SmoothGrad's noise, of an image in [0, 1]
_WINDOWS_PER_SIDE: Final = 8
_BATCH: Final = 16


class Method(StrEnum):
    """What ``--cam-method`` may name."""

    GRAD_CAM = "gradcam"
    GRAD_CAM_PLUS_PLUS = "gradcam++"
    XGRAD_CAM = "xgradcam"
    HIRES_CAM = "hirescam"
    LAYER_CAM = "layercam"
    EIGEN_CAM = "eigencam"
    SCORE_CAM = "scorecam"
    INTEGRATED_GRADIENTS = "integrated-gradients"
    SALIENCY = "saliency"
    SMOOTH_GRAD = "smoothgrad"
    OCCLUSION = "occlusion"

    @property
    def has_layer(self) -> bool:
        """Whether it explains a layer's map; the others explain the image's pixels."""
        return self in _CAM_CLASSES


_CAM_CLASSES: Final = {
    Method.GRAD_CAM: "GradCAM",
    Method.GRAD_CAM_PLUS_PLUS: "GradCAMPlusPlus",
    Method.XGRAD_CAM: "XGradCAM",
    Method.HIRES_CAM: "HiResCAM",
    Method.LAYER_CAM: "LayerCAM",
    Method.EIGEN_CAM: "EigenCAM",
    Method.SCORE_CAM: "ScoreCAM",
}


class Explainable(Protocol):
    """A network behind its normalisation: `training.fitted.Model` and `training.served.ServedNetwork` are such."""

    @property
    def normalise(self) -> nn.Module:
        """Takes ``(N, 1, H, W)`` in [0, 1], gives what the network wants."""
        ...

    @property
    def network(self) -> ClassificationNetwork:
        """What is explained."""
        ...


def explain(
    network: Explainable,
    image: Map,
    method: Method | str = Method.GRAD_CAM,
    layer: str | None = None,
    positive: int = 1,
) -> Map:
    """Say where an image speaks for a class.

    The network is left in eval mode and without gradients.

    Args:
        image: ``(H, W) float32 in [0, 1]``, the network's input.
        method: one of `Method`.
        layer: name of a module of the network or of its backbone, e.g. ``layer4.1.conv2``; by default the last
            convolutional map, as it is served. Only for methods that explain a layer.
        positive: index of the class; its logit is explained.

    Returns:
        ``(H, W) float32 in [0, 1]``, all zero where nothing speaks for the class. A layer's map is scaled up
        bilinearly.

    Raises:
        ConfigurationError: method or layer is unknown, they do not fit, or the layer gives no map.
    """
    chosen = _method(method)
    tapped = _Tapped(network).eval()
    device = next(tapped.parameters()).device
    batch = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))[None, None].to(device)
    with _gradients_of_the_image_alone(tapped):
        if chosen.has_layer:
            return _class_activation(tapped, _layer(tapped, layer, batch), batch, chosen, positive)
        if layer is not None:
            raise ConfigurationError(f"method {chosen}: explains pixels and takes no layer")
        return _scaled(_ATTRIBUTIONS[chosen](tapped, batch, positive))


def correlation(first: Map, second: Map) -> float:
    """Give Pearson's correlation of two maps, the smaller scaled up bilinearly to the larger as grad-cam does.

    Two maps without any structure agree (1); one with and one without do not (0).
    """
    small, large = sorted((first, second), key=lambda m: m.size)
    height, width = large.shape
    enlarged = cv2.resize(small.astype(np.float32), (width, height))
    deviations = float(enlarged.std()), float(large.std())
    if min(deviations) < np.finfo(np.float32).eps:
        return float(max(deviations) < np.finfo(np.float32).eps)
    return float(np.corrcoef(enlarged.ravel(), large.ravel())[0, 1])


class _Tapped(nn.Module):
    """``(N, 1, H, W)`` in [0, 1] to logits, with a module at the place of the last map, for hooks."""

    def __init__(self, explained: Explainable) -> None:
        super().__init__()
        self.normalise = explained.normalise
        self.network = explained.network
        self.tap = nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        feature_map: Tensor = self.tap(self.network.features(self.normalise(image)))
        return self.network.classify(feature_map)


def _method(name: Method | str) -> Method:
    try:
        return Method(name)
    except ValueError:
        raise ConfigurationError(f"method {name}: unknown; known are {', '.join(Method)}") from None


def _layer(tapped: _Tapped, name: str | None, batch: Tensor) -> nn.Module:
    if name is None:
        return tapped.tap
    found = None
    for root in (tapped.network.backbone, tapped.network):
        try:
            found = root.get_submodule(name) if name else None
        except AttributeError:
            continue
        break
    if found is None:
        known = ", ".join(child for child, _ in tapped.network.backbone.named_children())
        raise ConfigurationError(f"layer {name}: unknown; the backbone has {known} and what is within them")
    if not _gives_a_map(tapped, found, batch):
        raise ConfigurationError(f"layer {name}: gives no map (channels, height, width)")
    return found


def _gives_a_map(tapped: _Tapped, module: nn.Module, batch: Tensor) -> bool:
    shapes = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: shapes.append(getattr(output, "shape", ())))
    try:
        with torch.no_grad():
            tapped(batch)
    finally:
        handle.remove()
    return len(shapes) == 1 and len(shapes[0]) == 4


@contextmanager
def _gradients_of_the_image_alone(tapped: nn.Module) -> Iterator[None]:
    """Spare the gradients of the weights, which nobody asks for and an optimiser must not find."""
    fitted = [parameter for parameter in tapped.parameters() if parameter.requires_grad]
    for parameter in fitted:
        parameter.requires_grad_(False)
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter in fitted:
            parameter.requires_grad_(True)


def _class_activation(tapped: _Tapped, layer: nn.Module, batch: Tensor, method: Method, positive: int) -> Map:
    prepare_torchvision()
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    kind = getattr(pytorch_grad_cam, _CAM_CLASSES[method])
    with kind(model=tapped, target_layers=[layer]) as cam:
        # Behind grad-cam's own hooks: what it holds must not be overwritten by ReLUs and sums that work in place.
        handle = layer.register_forward_hook(lambda _module, _inputs, output: output.clone())
        try:
            heat = cam(input_tensor=batch.requires_grad_(True), targets=[ClassifierOutputTarget(positive)])
        finally:
            handle.remove()
    return np.asarray(heat[0], np.float32).clip(0.0, 1.0)


def _integrated_gradients(tapped: nn.Module, batch: Tensor, positive: int) -> Tensor:
    from captum.attr import IntegratedGradients

    # From black: what the radiograph adds to no radiograph.
    gradients = IntegratedGradients(tapped)
    attribution: Tensor = gradients.attribute(
        batch, target=positive, n_steps=_INTEGRATION_STEPS, internal_batch_size=_BATCH
    )
    return attribution


def _saliency(tapped: nn.Module, batch: Tensor, positive: int) -> Tensor:
    from captum.attr import Saliency

    attribution: Tensor = Saliency(tapped).attribute(batch.requires_grad_(True), target=positive)
    return attribution


def _smooth_grad(tapped: nn.Module, batch: Tensor, positive: int) -> Tensor:
    from captum.attr import NoiseTunnel, Saliency

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        attribution: Tensor = NoiseTunnel(Saliency(tapped)).attribute(
            batch.requires_grad_(True), nt_samples=_NOISY_COPIES, stdevs=_NOISE, target=positive
        )
    return attribution


def _occlusion(tapped: nn.Module, batch: Tensor, positive: int) -> Tensor:
    from captum.attr import Occlusion

    window = [max(1, side // _WINDOWS_PER_SIDE) for side in batch.shape[2:]]
    attribution: Tensor = Occlusion(tapped).attribute(
        batch,
        target=positive,
        sliding_window_shapes=(1, *window),
        strides=(1, *(max(1, side // 2) for side in window)),
        perturbations_per_eval=_BATCH,
    )
    return attribution


_ATTRIBUTIONS: Final[dict[Method, Callable[[nn.Module, Tensor, int], Tensor]]] = {
    Method.INTEGRATED_GRADIENTS: _integrated_gradients,
    Method.SALIENCY: _saliency,
    Method.SMOOTH_GRAD: _smooth_grad,
    Method.OCCLUSION: _occlusion,
}


def _scaled(attribution: Tensor) -> Map:
    """Give what speaks for the class, ``(H, W)`` in [0, 1], of an attribution ``(1, 1, H, W)`` of any scale."""
    heat: NDArray[Any] = attribution.detach().cpu().numpy()[0, 0].clip(min=0)
    top = float(np.percentile(heat, _HOTTEST)) or float(heat.max())
    return (heat / top).clip(max=1.0).astype(np.float32) if top > 0 else np.zeros_like(heat, np.float32)
