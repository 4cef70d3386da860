"""What a model store no longer needs: versions that nobody would go back to, and engines of another network.

The version that serves is never among it, nor is one that is canary or shadow.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from models.engines.built import FOLDER, engines_of
from models.errors import ConfigurationError
from models.store.activation import locked
from models.store.store import ModelStore, ModelVersion, StoreError, open_version
from models.tasks import Task

_BEING_WRITTEN_S: Final = 3600.0
"""An engine file without its JSON, or a file under a temporary name, may be one that is being published; this long."""


@dataclass(frozen=True, slots=True)
class Garbage:
    """Something that can go.

    Attributes:
        what: for the reader, e.g. ``version 1.0.0`` or ``engine file``.
        size_bytes: of all its files.
    """

    task: Task
    what: str
    path: Path
    size_bytes: int


def collect_garbage(store: ModelStore, task: Task, keep: int, *, remove: bool) -> list[Garbage]:
    """Find what a task no longer needs, and remove it unless told not to.

    Nobody can promote a version of the task meanwhile. A version disappears in one step, by a rename.

    Args:
        store: the store.
        task: whose versions.
        keep: so many of the versions that served last, and so many of the newest, stay.
        remove: False only looks.

    Raises:
        StoreError: the store cannot be read or written; what was removed before stays removed.
    """
    directory = store.root / task
    if not directory.is_dir():
        return []
    try:
        with locked(directory):
            found = [*_versions(store, task, keep), *_engine_files(store, task, keep)]
            if remove:
                for garbage in found:
                    _remove(garbage.path)
                for left in directory.glob(".removing-*"):
                    shutil.rmtree(left)
    except OSError as error:
        raise StoreError(f"{directory}: cannot be cleared: {error.strerror}") from error
    return found


def unused_versions(store: ModelStore, task: Task, keep: int) -> tuple[str, ...]:
    """Give the versions that have no role, did not serve among the last `keep`, and are not the newest `keep`."""
    activation, versions = store.activation(task), store.versions(task)
    kept = {*activation.named, *activation.previous[:keep], *versions[max(0, len(versions) - keep) :]}
    return tuple(name for name in versions if name not in kept)


def unused_engine_files(version: ModelVersion) -> tuple[Path, ...]:
    """Give the files in a version's ``engines/`` that belong to no engine of its network.

    An engine of this network stays, whatever provider or device it was built for; so does a JSON that cannot be read,
    for a newer release may be able to.
    """
    folder = version.directory / FOLDER
    needed: set[str] = set()
    for engine in engines_of(version):
        needed.update(name for name in (f"{engine.key.digest}.json", engine.file) if name)
    paths = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    network = version.manifest.files[version.network_path.name]
    return tuple(path for path in paths if path.name not in needed and _is_unused(path, network))


def _is_unused(path: Path, network_sha256: str) -> bool:
    manifest = path.with_suffix(".json")
    if manifest.is_file() and not path.name.startswith("."):
        try:
            told = json.loads(manifest.read_bytes())
        except ValueError:
            return False
        return isinstance(told, dict) and told.get("network_sha256", network_sha256) != network_sha256
    return time.time() - path.stat().st_mtime > _BEING_WRITTEN_S


def _versions(store: ModelStore, task: Task, keep: int) -> list[Garbage]:
    found = []
    for name in unused_versions(store, task, keep):
        directory = store.root / task / name
        size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
        found.append(Garbage(task, f"version {name}", directory, size))
    return found


def _engine_files(store: ModelStore, task: Task, keep: int) -> list[Garbage]:
    found = []
    for name in sorted(set(store.versions(task)) - set(unused_versions(store, task, keep))):
        try:
            version = open_version(store.root / task / name)
        except ConfigurationError:
            continue  # damaged: `list` says so, and whoever mends it may want its engines
        for path in unused_engine_files(version):
            found.append(Garbage(task, f"engine file of {name}", path, path.stat().st_size))
    return found


def _remove(path: Path) -> None:
    if not path.is_dir():
        path.unlink()
        return
    # Under a name with a leading dot it is no version any more; a crash from here on leaves what the next run removes.
    doomed = path.with_name(f".removing-{path.name}")
    if doomed.exists():
        shutil.rmtree(doomed)
    path.rename(doomed)
    shutil.rmtree(doomed)
