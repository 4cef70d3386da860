"""Reads the Kubernetes manifests: the base as it is written, and the overlays as `kubectl kustomize` renders them."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.container_settings import DEPLOY

KUBERNETES = DEPLOY / "kubernetes"
OVERLAYS = ("cpu", "gpu", "object-store")
Manifest = dict[str, Any]


@cache
def base() -> tuple[Manifest, ...]:
    """Give the objects that base/kustomization.yaml lists."""
    listed = yaml.safe_load((KUBERNETES / "base" / "kustomization.yaml").read_text())["resources"]
    return tuple(
        document for name in listed for document in yaml.safe_load_all((KUBERNETES / "base" / name).read_text())
    )


@cache
def _rendered(overlay: str) -> tuple[Manifest, ...]:
    command = ["kubectl", "kustomize", str(KUBERNETES / "overlays" / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def rendered(overlay: str) -> tuple[Manifest, ...]:
    """Give the objects of an overlay; skip where there is no kubectl."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is missing: the overlays cannot be rendered, only the base is checked")
    return _rendered(overlay)


def settings_of(manifests: tuple[Manifest, ...]) -> dict[str, str]:
    """Give the settings of every pod: the generated ConfigMap, or the file that it is made of."""
    for manifest in manifests:
        if manifest["kind"] == "ConfigMap" and manifest["metadata"]["name"].startswith("radstream-settings"):
            return dict(manifest["data"])
    return env_file(KUBERNETES / "base" / "settings.env")


def env_file(path: Path) -> dict[str, str]:
    """Read NAME=VALUE lines as kustomize does."""
    return dict(line.split("=", 1) for line in path.read_text().splitlines() if line and not line.startswith("#"))


def find(manifests: tuple[Manifest, ...], kind: str, name: str) -> Manifest:
    """Give one object."""
    return next(found for found in manifests if found["kind"] == kind and found["metadata"]["name"] == name)


def of_kind(manifests: tuple[Manifest, ...], kind: str) -> list[Manifest]:
    """Give all objects of a kind."""
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def pod_templates(manifests: tuple[Manifest, ...]) -> dict[str, Manifest]:
    """Give the pod template of each workload, by its name."""
    specs = {
        manifest["metadata"]["name"]: manifest["spec"]["jobTemplate"]["spec"]
        if "jobTemplate" in manifest["spec"]
        else manifest["spec"]
        for manifest in manifests
        if manifest["kind"] in {"Deployment", "StatefulSet", "Job", "CronJob"}
    }
    return {name: spec["template"] for name, spec in specs.items()}


def selects(selector: Manifest, labels: dict[str, str]) -> bool:
    """Tell whether a label selector takes a pod."""
    exact = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    return exact and all(
        rule["operator"] == "In" and labels.get(rule["key"]) in rule["values"]
        for rule in selector.get("matchExpressions", [])
    )
