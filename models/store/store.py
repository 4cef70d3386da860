"""The model store: immutable versions in a directory, and the small file that says which one serves.

::

    <root>/<task>/active.json            {"active": "1.0.0", ...}, see `models.store.activation`
    <root>/<task>/<version>/manifest.json
    <root>/<task>/<version>/network.onnx
    <root>/<task>/<version>/...          every other file that the manifest lists

A version is never changed: it appears whole, by a rename, and `active.json` is replaced, by a rename. A reader at any
moment, on any host that shares the directory, sees one state or the next and nothing between. `open` hashes every file
that the manifest lists, and nothing else in a version is ever read.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from models.errors import ConfigurationError
from models.store.activation import ACTIVE_NAME, VERSION_NAME, Activation, locked, replace_activation
from models.store.durable import fsync
from models.store.manifest import Manifest
from models.tasks import Task

MANIFEST_NAME: Final = "manifest.json"

_HASH_BLOCK_BYTES: Final = 1 << 20


class StoreError(ConfigurationError):
    """The store or a version in it is not as it must be. The message is one line with paths, for the operator."""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version whose files were checked against its manifest."""

    directory: Path
    manifest: Manifest

    @property
    def network_path(self) -> Path:
        """The ONNX file."""
        return self.directory / "network.onnx"


class ModelStore:
    """One store directory. Holds no state, so what it tells is always what the disk says."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def versions(self, task: Task) -> tuple[str, ...]:
        """Give the names of the task's versions, oldest first where they are numbered."""
        try:
            entries = list((self.root / task).iterdir())
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise StoreError(f"{self.root / task}: cannot be listed: {error.strerror}") from error
        names = [entry.name for entry in entries if (entry / MANIFEST_NAME).is_file() and _is_version(entry.name)]
        return tuple(sorted(names, key=_natural_order))

    def active(self, task: Task) -> str | None:
        """Give the version that serves, None when none does."""
        return self.activation(task).active

    def shadow(self, task: Task) -> str | None:
        """Give the version that runs beside the active one without being believed, None when none does."""
        return self.activation(task).shadow

    def activation(self, task: Task) -> Activation:
        """Read ``active.json``; a task without one has no active version.

        Raises:
            StoreError: the file cannot be read or says something else.
        """
        path = self.root / task / ACTIVE_NAME
        try:
            return Activation.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return Activation()
        except OSError as error:
            raise StoreError(f"{path}: cannot be read: {error.strerror}") from error
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "document"
            raise StoreError(
                f'{path}: {place}: {first["msg"]}; it must be like {{"active": "<version>", "shadow": null}}'
            ) from error

    def open(self, task: Task, version: str | None = None) -> ModelVersion:
        """Check a version and give it.

        Args:
            task: whose version.
            version: its name; None means the active one.

        Raises:
            StoreError: there is none, its manifest is wrong, or a file is missing or changed.
        """
        name = version or self.active(task)
        if name is None:
            raise StoreError(f"{self.root / task}: no active version; activate one of: {self._known(task)}")
        if name not in self.versions(task):
            raise StoreError(f"{self.root / task}: no version {name}; there are: {self._known(task)}")
        opened = open_version(self.root / task / name)
        if opened.manifest.task is not task or opened.manifest.version != name:
            told = f"{opened.manifest.task} {opened.manifest.version}"
            raise StoreError(f"{opened.directory}: its manifest says that it is {told}")
        return opened

    def publish(self, task: Task, staging: Path) -> ModelVersion:
        """Make a checked copy of a finished version directory part of the store, in one step.

        Nothing is activated.

        Args:
            task: whose version.
            staging: directory with ``manifest.json`` and the files it lists; it is left as it is.

        Raises:
            StoreError: the directory is wrong, the version stands already, or the store cannot be written.
        """
        staged = open_version(staging)
        for name in sorted(files_of(staging).keys() - staged.manifest.files.keys()):
            raise StoreError(f"{staging / name}: not listed in the manifest")
        if staged.manifest.task is not task:
            raise StoreError(f"{staging}: its manifest says task {staged.manifest.task}, not {task}")
        target = self.root / task / staged.manifest.version
        if target.exists():
            raise StoreError(f"{target}: stands already; versions are never replaced, choose another name")
        try:
            _publish(staging, target)
        except OSError as error:
            raise StoreError(f"{target}: cannot be published: {error.strerror}") from error
        return self.open(task, staged.manifest.version)

    def activate(self, task: Task, version: str | None, *, shadow: str | None = None) -> None:
        """Name the version that serves and the one in its shadow, whatever was so before.

        Both are checked before anything is changed. None takes the task out of service.

        Raises:
            StoreError: a version cannot be opened, or the store cannot be written.
        """
        self.change(task, lambda now: _validated(now.with_active(version), shadow=shadow))

    def change(self, task: Task, change: Callable[[Activation], Activation]) -> Activation:
        """Change ``active.json``, alone among all writers; versions that get a role by it are checked first.

        Args:
            task: whose file.
            change: gives the new state for the present one, or raises `StoreError`.

        Returns:
            What stands there now.

        Raises:
            StoreError: a version cannot be opened, the state is none, or the store cannot be written.
        """
        directory = self.root / task
        try:
            with locked(directory):
                before = self.activation(task)
                changed = change(before)
                for name in sorted(changed.named):
                    # One that runs as before is left alone: its damage must not hinder taking another away.
                    if changed == before or changed.roles_of(name) != before.roles_of(name):
                        self.open(task, name)
                replace_activation(directory, changed)
        except OSError as error:
            raise StoreError(f"{directory}: cannot be written: {error.strerror}") from error
        return changed

    def _known(self, task: Task) -> str:
        return ", ".join(self.versions(task)) or "none"


def open_version(directory: Path) -> ModelVersion:
    """Read a version directory, wherever it lies, and check every file in it.

    Raises:
        StoreError: the manifest is missing or wrong, or a listed file is missing or changed.
    """
    path = directory / MANIFEST_NAME
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise StoreError(f"{path}: not a manifest: {place or 'document'}: {first['msg']}") from error
    present = files_of(directory)
    for name, expected in manifest.files.items():
        if name not in present:
            raise StoreError(f"{directory / name}: listed in the manifest, but missing")
        if sha256_of(present[name]) != expected:
            raise StoreError(f"{directory / name}: its SHA-256 is not the one in the manifest; the file was changed")
    return ModelVersion(directory, manifest)


def files_of(directory: Path) -> dict[str, Path]:
    """Give every file below a version directory but its manifest, by the name that a manifest lists it under.

    Engines that were built on this machine (``engines/``) are no part of the version; they carry their own key.
    """
    paths = (path for path in sorted(directory.rglob("*")) if not path.is_dir())
    named = {path.relative_to(directory).as_posix(): path for path in paths}
    return {name: path for name, path in named.items() if name != MANIFEST_NAME and not name.startswith("engines/")}


def sha256_of(path: Path) -> str:
    """Give the hex digest of a file.

    Raises:
        StoreError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_HASH_BLOCK_BYTES):
                digest.update(block)
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def _is_version(name: str) -> bool:
    return VERSION_NAME.fullmatch(name) is not None


def _validated(activation: Activation, shadow: str | None) -> Activation:
    try:
        return Activation.model_validate({**activation.model_dump(), "shadow": shadow})
    except ValidationError as error:
        raise StoreError(f"shadow {shadow}: {error.errors()[0]['msg']}") from error


def _natural_order(name: str) -> list[tuple[int, int | str]]:
    # 1.10.0 after 1.9.0: numbers compare as numbers, and before words.
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.findall(r"\d+|\D+", name)]


def _publish(staging: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # A name with a leading dot is no version, so nobody reads the copy before it is whole.
    copy = Path(tempfile.mkdtemp(prefix=".publishing-", dir=target.parent))
    try:
        shutil.copytree(staging, copy, dirs_exist_ok=True)
        copy.chmod(0o755)
        for path in (*copy.rglob("*"), copy):
            fsync(path)
        copy.rename(target)
        fsync(target.parent)
    except BaseException:
        shutil.rmtree(copy, ignore_errors=True)
        raise
