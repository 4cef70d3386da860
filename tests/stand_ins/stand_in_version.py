"""Model versions of task pneumonia for tests, of which only the network's content and a few fields matter."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

from models.pixels.spec import InputSpec
from models.store.manifest import Manifest
from models.store.store import ModelStore, ModelVersion, open_version
from models.tasks import Task

TASK = Task.PNEUMONIA


def write_version(directory: Path, content: bytes, **changes: object) -> ModelVersion:
    """Write a version directory with this ``network.onnx``; `changes` are fields of its manifest."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "network.onnx").write_bytes(content)
    manifest = Manifest(
        task=TASK,
        network="none",
        version="1.0.0",
        labels=("NORMAL", "PNEUMONIA"),
        positive_label="PNEUMONIA",
        input_spec=InputSpec(height=8, width=8),
        output_names=("probability", "cam"),
        files={"network.onnx": hashlib.sha256(content).hexdigest()},
        licence="test",
        created=datetime(2026, 1, 1, tzinfo=UTC),
        radstream_version="0",
    ).model_copy(update=changes)
    (directory / "manifest.json").write_text(manifest.model_dump_json())
    return open_version(directory)


def publish_version(store: ModelStore, staging: Path, content: bytes, **changes: object) -> ModelVersion:
    """Write a version and publish it; nothing is activated."""
    write_version(staging, content, **changes)
    return store.publish(TASK, staging)
