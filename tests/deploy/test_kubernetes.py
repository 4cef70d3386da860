"""The Kubernetes manifests: schemas, pod security, settings, stops, queues, networks; base and rendered overlays."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from models.requests import QUEUE_NAMES
from scp.settings import ScpSettings
from tests.deploy.container_settings import UID, delivery_stop_s, load_all, scp_stop_s, worker_stop_s
from tests.deploy.kubernetes_manifests import (
    KUBERNETES,
    OVERLAYS,
    Manifest,
    base,
    find,
    of_kind,
    pod_templates,
    rendered,
    selects,
    settings_of,
)
from tests.deploy.test_containers import lineage, stages
from worker.__main__ import _parser as worker_parser
from worker.settings import Destination, WorkerSettings

SCHEMA_VERSION = "1.32"
FORMS = ("base", *OVERLAYS)
SERVICES = ("scp", "worker", "delivery")
BY_THE_CLOCK = ("retain", "reconcile")
CUSTOM: dict[str, dict[str, set[str]]] = {
    # Names that the custom resource definitions of KEDA 2 and of the Prometheus operator have, as far as we use them.
    "ScaledObject": {
        "spec": {
            "scaleTargetRef",
            "minReplicaCount",
            "maxReplicaCount",
            "pollingInterval",
            "cooldownPeriod",
            "fallback",
            "advanced",
            "triggers",
        }
    },
    "TriggerAuthentication": {"spec": {"secretTargetRef"}},
    "PodMonitor": {"spec": {"selector", "podMetricsEndpoints"}},
    "PrometheusRule": {"spec": {"groups"}},
}


def manifests_of(form: str) -> tuple[Manifest, ...]:
    return base() if form == "base" else rendered(form)


def containers(template: Manifest) -> list[Manifest]:
    found: list[Manifest] = [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]
    return found


@cache
def fits(text: str) -> None:
    # Overlays share most of their objects, and a look at the schema takes long.
    kubernetes_validate.validate(json.loads(text), SCHEMA_VERSION, strict=True)


# The base is part of every overlay, and looked at where none can be rendered.
@pytest.mark.parametrize("form", FORMS[1:] if shutil.which("kubectl") else FORMS[:1])
def test_every_object_fits_the_schema_of_its_kind(form: str) -> None:
    for manifest in manifests_of(form):
        kind = manifest["kind"]
        if kind in CUSTOM:
            for part, names in CUSTOM[kind].items():
                assert set(manifest[part]) <= names, (kind, manifest["metadata"]["name"])
        else:
            fits(json.dumps(manifest))


def test_a_wrong_field_would_be_refused() -> None:
    manifest = {**find(base(), "Service", "scp"), "spec": {"typ": "LoadBalancer"}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, SCHEMA_VERSION, strict=True)


@pytest.mark.parametrize("form", FORMS)
def test_pods_keep_to_the_restricted_standard_and_write_nothing_but_volumes(form: str) -> None:
    templates = pod_templates(manifests_of(form))
    assert set(templates) == {*SERVICES, "migrate", *BY_THE_CLOCK}
    for name, template in templates.items():
        spec, security = template["spec"], template["spec"]["securityContext"]
        assert security["runAsNonRoot"] is True
        assert (security["runAsUser"], security["runAsGroup"], security["fsGroup"]) == (UID, UID, UID)
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        for container in containers(template):
            own = container["securityContext"]
            assert own == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert container["resources"]["limits"]["memory"]
            assert container["resources"]["requests"]["cpu"]
            mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
            assert container["name"] == "model-store" or "/tmp" in mounts


@pytest.mark.parametrize("form", FORMS)
def test_a_pod_starts_with_exactly_the_settings_and_secrets_that_it_gets(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifests = manifests_of(form)
    example = yaml.safe_load((KUBERNETES / "secret.example.yaml").read_text())
    for name, template in pod_templates(manifests).items():
        (container,) = template["spec"]["containers"]
        (source,) = container["envFrom"]
        assert source["configMapRef"]["name"].startswith("radstream-settings")
        given = settings_of(manifests) | {entry["name"]: entry["value"] for entry in container.get("env", [])}
        secrets = tmp_path / name
        secrets.mkdir()
        volume = next(volume for volume in template["spec"]["volumes"] if volume["name"] == "secrets")["secret"]
        assert volume["secretName"] == example["metadata"]["name"]
        for item in volume["items"]:
            (secrets / item["path"]).write_text(example["stringData"][item["key"]])
        mount = next(mount for mount in container["volumeMounts"] if mount["name"] == "secrets")
        assert given.pop("RADSTREAM_SECRETS_DIR") == mount["mountPath"]
        settings, scp, worker = load_all(given, monkeypatch, secrets)
        assert settings.sqlalchemy_url == example["stringData"]["radstream_database_url"]
        assert settings.redis_url.get_secret_value() == example["stringData"]["radstream_redis_url"]
        assert settings.phi_key is not None
        assert (settings.object_store is not None) == (form == "object-store")
        if form == "object-store" and name != "migrate":
            assert settings.object_store_secret_access_key is not None
        assert scp.telemetry_address == worker.telemetry_address == "0.0.0.0"
        provider = "tensorrt" if (form, name) == ("gpu", "worker") else "onnxruntime"
        assert worker.engine_provider == provider
        if name != "migrate":
            data = next(mount for mount in container["volumeMounts"] if mount["name"] == "data")
            assert str(settings.data_dir) == data["mountPath"]


@pytest.mark.parametrize("form", FORMS)
def test_stops_last_longer_than_the_processes_need(form: str) -> None:
    templates = pod_templates(manifests_of(form))
    given = {name: template["spec"].get("terminationGracePeriodSeconds", 0) for name, template in templates.items()}
    worker = WorkerSettings()
    assert given["scp"] > scp_stop_s(ScpSettings())
    assert templates["worker"]["spec"]["containers"][0]["args"] == ["run", "--no-delivery"]
    assert given["worker"] > worker_stop_s(worker, with_delivery=False)
    assert given["delivery"] > delivery_stop_s(worker)


@pytest.mark.parametrize("form", FORMS)
def test_commands_images_and_ports_are_those_of_the_code(form: str) -> None:
    scp, worker = ScpSettings(), WorkerSettings()
    listens = {
        "scp": {"dicom": scp.port, "telemetry": scp.telemetry_port},
        "worker": {"telemetry": worker.telemetry_port},
        "delivery": {"telemetry": worker.delivery_telemetry_port},
        "migrate": {},
        "retain": {},
        "reconcile": {},
    }
    for name, template in pod_templates(manifests_of(form)).items():
        (container,) = template["spec"]["containers"]
        image = container["image"].rsplit("/", 1)[-1].partition(":")[0]
        target = image.removeprefix("radstream-")
        assert target in stages()
        assert any(instruction == "ENTRYPOINT" for instruction, _ in lineage(target))
        if target != "scp":
            worker_parser().parse_args(container["args"])
        ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
        assert ports == listens[name]
        for probe in ("startupProbe", "livenessProbe"):
            if name in SERVICES:
                assert container[probe]["httpGet"] == {"path": "/healthz", "port": "telemetry"}
        if name in SERVICES:
            assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "telemetry"}


@pytest.mark.parametrize("form", FORMS)
def test_workers_are_scaled_by_both_queues_and_never_to_none(form: str) -> None:
    manifests = manifests_of(form)
    (scaled,) = of_kind(manifests, "ScaledObject")
    assert scaled["spec"]["scaleTargetRef"]["name"] == "worker"
    assert 1 <= scaled["spec"]["minReplicaCount"] < scaled["spec"]["maxReplicaCount"]
    assert "replicas" not in find(manifests, "Deployment", "worker")["spec"]
    triggers = scaled["spec"]["triggers"]
    assert [trigger["metadata"]["listName"] for trigger in triggers] == [f"rq:queue:{name}" for name in QUEUE_NAMES]
    (authentication,) = of_kind(manifests, "TriggerAuthentication")
    (reference,) = authentication["spec"]["secretTargetRef"]
    example = yaml.safe_load((KUBERNETES / "secret.example.yaml").read_text())
    assert reference["key"] in example["stringData"]
    for trigger in triggers:
        assert trigger["type"] == "redis"
        assert trigger["authenticationRef"] == {"name": authentication["metadata"]["name"]}
        assert all(isinstance(value, str) for value in trigger["metadata"].values())
        assert int(trigger["metadata"]["listLength"]) > 0
        assert f"@{trigger['metadata']['address']}/" in example["stringData"]["radstream_redis_url"]


@pytest.mark.parametrize("form", FORMS)
def test_the_operator_gets_the_very_rules_that_promtool_checks(form: str) -> None:
    (rule,) = of_kind(manifests_of(form), "PrometheusRule")
    checked = yaml.safe_load((KUBERNETES.parent / "prometheus" / "radstream.rules.yml").read_text())
    assert rule["spec"] == checked


def test_rq_names_its_lists_as_the_scaler_does() -> None:
    from rq import Queue

    assert [f"{Queue.redis_queue_namespace_prefix}{name}" for name in QUEUE_NAMES] == [
        "rq:queue:stat",
        "rq:queue:routine",
    ]


@pytest.mark.parametrize("form", FORMS)
def test_budgets_monitors_services_and_policies_choose_pods_that_exist(form: str) -> None:
    manifests = manifests_of(form)
    labels = {name: template["metadata"]["labels"] for name, template in pod_templates(manifests).items()}

    def chosen(selector: Manifest) -> set[str]:
        return {name for name, own in labels.items() if selects(selector, own)}

    budgets = {
        budget["metadata"]["name"]: chosen(budget["spec"]["selector"])
        for budget in of_kind(manifests, "PodDisruptionBudget")
    }
    assert budgets == {name: {name} for name in ("scp", "worker", "delivery")}
    monitors = of_kind(manifests, "PodMonitor")
    for monitor in monitors:
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        (relabeling,) = endpoint["relabelings"]
        assert relabeling == {"action": "replace", "targetLabel": "job", "replacement": monitor["metadata"]["name"]}
        assert endpoint["port"] == "telemetry"
        assert {f"radstream-{name}" for name in chosen(monitor["spec"]["selector"])} == {monitor["metadata"]["name"]}
    scraping = yaml.safe_load((KUBERNETES.parent / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    jobs = {job["job_name"] for job in scraping} - {"prometheus"}
    assert {monitor["metadata"]["name"] for monitor in monitors} == jobs
    for service in of_kind(manifests, "Service"):
        assert chosen({"matchLabels": service["spec"]["selector"]}) == {service["metadata"]["name"]}
    scp = find(manifests, "Service", "scp")["spec"]
    assert (scp["type"], scp["externalTrafficPolicy"]) == ("LoadBalancer", "Local")


@pytest.mark.parametrize("form", FORMS)
def test_the_network_allows_what_the_feed_needs_and_denies_the_rest(form: str) -> None:
    manifests = manifests_of(form)
    labels = {name: template["metadata"]["labels"] for name, template in pod_templates(manifests).items()}
    policies = [policy["spec"] for policy in of_kind(manifests, "NetworkPolicy")]
    assert {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} in policies

    def allowed(name: str, direction: str) -> set[int]:
        rules: list[dict[str, Any]] = []
        for policy in policies:
            if selects(policy["podSelector"], labels[name]):
                rules += policy.get(direction, [])
        assert all(rule.get("from") or rule.get("to") for rule in rules)  # none is open to everybody
        return {port["port"] for rule in rules for port in rule["ports"]}

    scp, worker = ScpSettings(), WorkerSettings()
    telemetry = {scp.telemetry_port, worker.telemetry_port, worker.delivery_telemetry_port}
    store = {443} if form == "object-store" else set()
    (pacs,) = load_destinations(manifests)
    assert allowed("scp", "ingress") == {scp.port, *telemetry}
    assert allowed("worker", "ingress") == allowed("delivery", "ingress") == telemetry
    assert allowed("migrate", "ingress") == set()
    assert allowed("scp", "egress") == allowed("worker", "egress") == {53, 5432, 6379, *store}
    assert allowed("migrate", "egress") == {53, 5432, 6379}
    for name in BY_THE_CLOCK:
        assert allowed(name, "ingress") == set()
        assert allowed(name, "egress") == {53, 5432, 6379, *store}
    assert pacs.port in allowed("delivery", "egress")


def load_destinations(manifests: tuple[Manifest, ...]) -> list[Destination]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        given = settings_of(manifests) | {"RADSTREAM_SECRETS_DIR": ""}
        destinations = load_all(given, monkeypatch)[2].destinations
    return [to for to in destinations if isinstance(to, Destination)]


@pytest.mark.parametrize("form", FORMS)
def test_jobs_by_the_clock_never_overlap_and_end_before_they_are_due_again(form: str) -> None:
    jobs = {job["metadata"]["name"]: job["spec"] for job in of_kind(manifests_of(form), "CronJob")}
    assert set(jobs) == set(BY_THE_CLOCK)
    every_s = {"retain": 24 * 3600, "reconcile": 6 * 3600}
    for name, spec in jobs.items():
        assert spec["concurrencyPolicy"] == "Forbid"
        assert spec["jobTemplate"]["spec"]["activeDeadlineSeconds"] < every_s[name]


@pytest.mark.parametrize("form", ["base", "cpu", "gpu"])
def test_who_shares_the_volume_of_one_node_runs_on_that_node(form: str) -> None:
    manifests = manifests_of(form)
    claims = {
        claim["metadata"]["name"]: claim["spec"]["accessModes"] for claim in of_kind(manifests, "PersistentVolumeClaim")
    }
    assert claims["data"] == ["ReadWriteOnce"]
    scp = find(manifests, "Deployment", "scp")["spec"]
    assert (scp["replicas"], scp["strategy"]) == (1, {"type": "Recreate"})
    for name in ("worker", "delivery", *BY_THE_CLOCK):
        spec = pod_templates(manifests)[name]["spec"]
        (term,) = spec["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert term["topologyKey"] == "kubernetes.io/hostname"
        assert selects(term["labelSelector"], scp["template"]["metadata"]["labels"])


def test_with_a_bucket_no_pod_is_bound_to_a_node_or_a_volume() -> None:
    manifests = rendered("object-store")
    assert of_kind(manifests, "PersistentVolumeClaim") == []
    assert find(manifests, "Deployment", "scp")["spec"]["replicas"] == 2
    for name in (*SERVICES, *BY_THE_CLOCK):
        spec = pod_templates(manifests)[name]["spec"]
        assert "affinity" not in spec
        data = next(volume for volume in spec["volumes"] if volume["name"] == "data")
        assert set(data) == {"name", "emptyDir"}
        assert len([volume for volume in spec["volumes"] if volume["name"] == "secrets"]) == 1


def test_on_gpus_a_worker_asks_for_one_and_finds_the_versions_in_the_store(tmp_path: Path) -> None:
    spec = pod_templates(rendered("gpu"))["worker"]["spec"]
    (container,) = spec["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    (seeding,) = spec["initContainers"]
    script = seeding["command"][2].replace('"/models"', repr(str(tmp_path / "models")))
    subprocess.run([sys.executable, "-c", script], check=True, cwd=KUBERNETES.parents[1], timeout=60)
    assert {path.parent.name for path in (tmp_path / "models").glob("*/active.json")} >= {"pneumonia", "csi"}
