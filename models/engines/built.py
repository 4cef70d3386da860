"""Engines that were built and proven from a model version, in its ``engines/`` folder.

::

    <store>/<task>/<version>/engines/<key>.json    what it is, its proof and its speed
    <store>/<task>/<version>/engines/<key>.plan    of tensorrt and tensorrt_rtx
    <store>/<task>/<version>/engines/<key>.onnx    of onnxruntime, other than FP32

The key is the hash of everything that an engine is tied to, so that a plan for another network, GPU or release of the
provider is never looked at. The JSON is written last, by rename: an engine exists when its JSON does. The folder is no
part of the version, which stays as it was published.

Nothing without a passed proof can be written or read: an `EngineManifest` with a failed check is no manifest.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.store.durable import write_whole
from models.store.store import ModelVersion, StoreError

FOLDER: Final = "engines"
FP32: Final = "fp32"
AUTO: Final = "auto"
"""In place of a precision: the engine that was chosen by measurement when engines were built."""

_KEY_DIGITS: Final = 32
_SUFFIX: Final = {"onnxruntime": ".onnx"}
_SUFFIX_OF_PLANS: Final = ".plan"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True, slots=True)
class EngineKey:
    """Everything that an engine is tied to.

    Attributes:
        network_sha256: of the ``network.onnx`` that it was made from.
        device: of onnxruntime the kind of CPU, see `models.engines.cpu`; of tensorrt the compute capability, such as
            ``sm_90``; of tensorrt_rtx all that the plan was built for.
    """

    network_sha256: str
    provider: str
    provider_version: str
    precision: str
    device: str

    @property
    def digest(self) -> str:
        """The name of the engine's files: 32 hex digits."""
        canonical = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:_KEY_DIGITS]

    @property
    def file_name(self) -> str:
        """The name of the engine file."""
        return self.digest + _SUFFIX.get(self.provider, _SUFFIX_OF_PLANS)


class Check(BaseModel):
    """One figure of a proof and the bound that it must keep.

    Attributes:
        name: what was measured, e.g. ``probability: largest difference``.
        value: what was found.
        bound: what is allowed.
        holds: whether the value must be at most or at least the bound.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    value: float
    bound: float
    holds: Literal["at most", "at least"] = "at most"

    @property
    def passed(self) -> bool:
        """Whether the bound is kept; not a number never does."""
        return self.value <= self.bound if self.holds == "at most" else self.value >= self.bound

    def __str__(self) -> str:
        return f"{self.name} is {self.value:.4g}, must be {self.holds} {self.bound:.4g}"


class Proof(BaseModel):
    """How far an engine is from the FP32 reference (ONNX Runtime on ``network.onnx``), and how well it does its task.

    Attributes:
        images: number in the golden set.
        labelled_images: number on which the task's own metric was computed, 0 where it was not.
        golden_sha256: of the names and pixels of the golden set, so that two proofs can be compared.
        checks: figures with a bound.
        measured: figures without one, e.g. mean differences and the metric before and after.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: int = Field(ge=1)
    labelled_images: int = Field(0, ge=0)
    golden_sha256: Sha256
    checks: tuple[Check, ...] = Field(min_length=1)
    measured: dict[str, float] = Field(default_factory=dict)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks whose bound is not kept."""
        return tuple(check for check in self.checks if not check.passed)


class Speed(BaseModel):
    """Images per second at one batch size, and of the FP32 reference measured in turn with it.

    Attributes:
        threads: of the arithmetic; None where the provider has none, as on a GPU.
        reference_images_per_s: of ``network.onnx`` with ONNX Runtime; None where it was not measured.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch: int = Field(ge=1)
    threads: int | None = Field(None, ge=1)
    images_per_s: float = Field(gt=0)
    reference_images_per_s: float | None = Field(None, gt=0)


class EngineManifest(BaseModel):
    """``<key>.json``: what one built engine is.

    Attributes:
        file: name of the engine file beside the JSON; None for FP32 of onnxruntime, which runs ``network.onnx``.
        build_s: seconds that building took.
        profile_batches: least, typical and largest batch of the engine; None where any number will do.
        proof: of what runs; all its checks passed.
        speeds: measured when it was built.
        chosen: whether it is the fastest proven engine of its provider and device.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = Field(1, ge=1, le=1)
    network_sha256: Sha256
    provider: str
    provider_version: str
    precision: Literal["fp32", "fp16", "int8"]
    device: str
    file: str | None = None
    file_sha256: Sha256 | None = None
    created: datetime
    build_s: float = Field(ge=0)
    profile_batches: tuple[int, int, int] | None = None
    proof: Proof
    speeds: tuple[Speed, ...] = ()
    chosen: bool = False

    @property
    def key(self) -> EngineKey:
        """What the engine is tied to."""
        return EngineKey(self.network_sha256, self.provider, self.provider_version, self.precision, self.device)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.file not in (None, self.key.file_name):
            raise ValueError("file is not named after the key")
        if (self.file is None) != (self.file_sha256 is None):
            raise ValueError("file and file_sha256 go together")
        if self.proof.failures:
            raise ValueError(f"not proven: {self.proof.failures[0]}")
        return self


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """An engine whose file was checked against its manifest.

    Attributes:
        path: the engine file; None for FP32 of onnxruntime, which runs ``network.onnx``.
        content: what the file held when it was checked, so that what was checked is what runs.
    """

    manifest: EngineManifest
    path: Path | None
    content: bytes | None


def engines_of(version: ModelVersion) -> tuple[EngineManifest, ...]:
    """Give every engine of a version that can be read, by provider, device and precision.

    Files of engines are not read here, only their JSONs. What is passed over tells `unreadable_engines`.
    """
    return _listed(version)[0]


def unreadable_engines(version: ModelVersion) -> tuple[str, ...]:
    """Say of every JSON in ``engines/`` that is passed over, why: one line each, with its path."""
    return _listed(version)[1]


def find_engine(version: ModelVersion, key: EngineKey) -> BuiltEngine | None:
    """Give the engine with this key, None where there is none.

    Raises:
        StoreError: its JSON is wrong, or its file is missing or was changed.
    """
    # A rebuilt engine replaces file and JSON one after the other; who read between them sees it on the second look.
    try:
        return _read_engine(version, key)
    except StoreError:
        return _read_engine(version, key)


def publish_engine(version: ModelVersion, manifest: EngineManifest, content: bytes | None) -> Path:
    """Write an engine beside its version, in one step for every reader; one with the same key is replaced.

    Args:
        version: what the engine was made from.
        manifest: with a passed proof.
        content: of the engine file; None for FP32 of onnxruntime.

    Returns:
        The path of its JSON.

    Raises:
        StoreError: the engine is not of this version or not this content, or the store cannot be written.
    """
    path = _json_path(version, manifest.key)
    if manifest.network_sha256 != network_sha256(version):
        raise StoreError(f"{path}: made from another network than {version.network_path}")
    if manifest.file_sha256 != (None if content is None else hashlib.sha256(content).hexdigest()):
        raise StoreError(f"{path}: its file_sha256 is not that of the engine's content")
    try:
        path.parent.mkdir(exist_ok=True)
        if content is not None:
            with suppress(FileNotFoundError):
                path.unlink()
            write_whole(path.with_name(manifest.key.file_name), content)
        write_whole(path, _json_of(manifest))
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror}") from error
    return path


def choose(version: ModelVersion, chosen: EngineKey) -> None:
    """Mark one engine as the one to take, and unmark the others of its provider, its release and device.

    The new mark is set first: a reader in between sees two, of which `chosen_engine` takes the faster, never none.

    Raises:
        StoreError: no such engine can be read, or the store cannot be written.
    """
    rivals = rivals_of(version, chosen)
    if chosen not in [rival.key for rival in rivals]:
        raise StoreError(f"{_json_path(version, chosen)}: there is no such engine to choose")
    for rival in sorted(rivals, key=lambda rival: rival.key != chosen):
        marked = rival.model_copy(update={"chosen": rival.key == chosen})
        if marked != rival:
            try:
                write_whole(_json_path(version, rival.key), _json_of(marked))
            except OSError as error:
                raise StoreError(f"{_json_path(version, rival.key)}: cannot be written: {error.strerror}") from error


def rivals_of(version: ModelVersion, key: EngineKey) -> tuple[EngineManifest, ...]:
    """Give the engines of a version that could run where this one does: they differ in precision alone."""
    place = (key.provider, key.provider_version, key.device)
    return tuple(
        engine for engine in engines_of(version) if (engine.provider, engine.provider_version, engine.device) == place
    )


def chosen_engine(rivals: Iterable[EngineManifest]) -> EngineManifest | None:
    """Give the marked one of engines that could run here; of several, the fastest."""
    return max((rival for rival in rivals if rival.chosen), key=best_speed, default=None)


def best_speed(engine: EngineManifest) -> float:
    """Say how fast an engine is among its rivals: the geometric mean over everything that was measured.

    Of each figure its ratio to the reference that took turns with it, where there was one, for a machine at work may
    have been slower when a rival was measured. 0 where nothing was measured.
    """
    ratios = [speed.images_per_s / (speed.reference_images_per_s or 1.0) for speed in engine.speeds]
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else 0.0


def network_sha256(version: ModelVersion) -> str:
    """Hash of the version's ``network.onnx`` as its manifest has it."""
    return version.manifest.files[version.network_path.name]


def _listed(version: ModelVersion) -> tuple[tuple[EngineManifest, ...], tuple[str, ...]]:
    engines, problems = [], []
    try:
        paths = sorted((version.directory / FOLDER).glob("*.json"))
    except OSError as error:
        return (), (f"{version.directory / FOLDER}: cannot be listed: {error.strerror}",)
    # Names with a leading dot are files that are being written.
    for path in (path for path in paths if not path.name.startswith(".")):
        try:
            engines.append(_read_json(version, path))
        except FileNotFoundError:
            continue  # removed since it was listed
        except StoreError as error:
            problems.append(str(error))
    engines.sort(key=lambda engine: (engine.provider, engine.device, engine.precision, engine.provider_version))
    return tuple(engines), tuple(problems)


def _read_engine(version: ModelVersion, key: EngineKey) -> BuiltEngine | None:
    path = _json_path(version, key)
    if key.network_sha256 != network_sha256(version):
        return None
    try:
        manifest = _read_json(version, path)
    except FileNotFoundError:
        return None
    if manifest.file is None:
        return BuiltEngine(manifest, None, None)
    file = path.with_name(manifest.file)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise StoreError(f"{file}: cannot be read: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != manifest.file_sha256:
        raise StoreError(f"{file}: its SHA-256 is not the one in {path.name}; the file was changed")
    return BuiltEngine(manifest, file, content)


def _read_json(version: ModelVersion, path: Path) -> EngineManifest:
    """Read one JSON; raises FileNotFoundError where there is none, StoreError where it is wrong."""
    try:
        manifest = EngineManifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise StoreError(f"{path}: not the manifest of an engine: {place or 'document'}: {first['msg']}") from error
    if path.stem != manifest.key.digest:
        raise StoreError(f"{path}: the engine that it describes has the key {manifest.key.digest}")
    if manifest.network_sha256 != network_sha256(version):
        raise StoreError(f"{path}: made from another network than {version.network_path}")
    return manifest


def _json_path(version: ModelVersion, key: EngineKey) -> Path:
    return version.directory / FOLDER / f"{key.digest}.json"


def _json_of(manifest: EngineManifest) -> bytes:
    return (manifest.model_dump_json(indent=2) + "\n").encode()
