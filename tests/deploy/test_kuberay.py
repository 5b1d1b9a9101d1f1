"""The sample for KubeRay: its structure, its hardening, and the check against KubeRay's own definition."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/kuberay"
CHECK = runpy.run_path(str(FOLDER / "check.py"))
[CLUSTER] = yaml.safe_load_all((FOLDER / "raycluster.yaml").read_text())
CLAIM, WORKER = yaml.safe_load_all((FOLDER / "worker.yaml").read_text())
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def record(needed: str = "", **fields: Any) -> dict[str, Any]:
    """The schema of an object with these fields alone."""
    return {"type": "object", "required": needed.split(), "additionalProperties": False, "properties": fields}


TEXT, WHOLE, FLAG = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
QUANTITIES = {"type": "object", "additionalProperties": {"type": "string", "pattern": r"^[0-9.]+([KMGT]i?)?$"}}
PROBE = record(tcpSocket=record("port", port=WHOLE), initialDelaySeconds=WHOLE, failureThreshold=WHOLE)
CONTAINER = record(
    "name image",
    name=TEXT,
    image=TEXT,
    securityContext=record(
        allowPrivilegeEscalation=FLAG,
        readOnlyRootFilesystem=FLAG,
        capabilities=record(drop={"type": "array", "items": TEXT}),
    ),
    volumeMounts={"type": "array", "items": record("name mountPath", name=TEXT, mountPath=TEXT)},
    resources=record(requests=QUANTITIES, limits=QUANTITIES),
    livenessProbe=PROBE,
    readinessProbe=PROBE,
)
VOLUME = record(
    "name",
    name=TEXT,
    persistentVolumeClaim=record("claimName", claimName=TEXT),
    emptyDir=record(medium={"enum": ["", "Memory"]}, sizeLimit=TEXT),
)
POD = record(
    "containers",
    automountServiceAccountToken=FLAG,
    enableServiceLinks=FLAG,
    securityContext=record(
        runAsNonRoot=FLAG,
        runAsUser=WHOLE,
        runAsGroup=WHOLE,
        fsGroup=WHOLE,
        fsGroupChangePolicy={"enum": ["OnRootMismatch", "Always"]},
        seccompProfile=record("type", type={"enum": ["RuntimeDefault"]}),
    ),
    volumes={"type": "array", "items": VOLUME},
    containers={"type": "array", "items": CONTAINER, "minItems": 1},
)
TEMPLATE = record(spec=POD)
NODES = record(
    "groupName maxReplicas minReplicas template",
    groupName=TEXT,
    replicas=WHOLE,
    minReplicas=WHOLE,
    maxReplicas=WHOLE,
    rayStartParams=TEXTS,
    template=TEMPLATE,
)
RAY_CLUSTER = record(
    "apiVersion kind metadata spec",
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayCluster"},
    metadata=record("name", name=TEXT),
    spec=record(
        "headGroupSpec",
        rayVersion=TEXT,
        authOptions=record(mode={"enum": ["disabled", "token"]}),
        headGroupSpec=record("template", rayStartParams=TEXTS, template=TEMPLATE),
        workerGroupSpecs={"type": "array", "items": NODES},
    ),
)
"""What KubeRay demands of a RayCluster, as far as the sample says anything about it."""


def pods() -> Iterator[dict[str, Any]]:
    """The pods of the head, of the nodes and of the worker."""
    yield CLUSTER["spec"]["headGroupSpec"]["template"]["spec"]
    for group in CLUSTER["spec"]["workerGroupSpecs"]:
        yield group["template"]["spec"]
    yield WORKER["spec"]["template"]["spec"]


def test_the_sample_is_a_ray_cluster() -> None:
    Draft7Validator.check_schema(RAY_CLUSTER)
    assert [error.message for error in Draft7Validator(RAY_CLUSTER).iter_errors(CLUSTER)] == []
    [nodes] = CLUSTER["spec"]["workerGroupSpecs"]
    assert nodes["minReplicas"] <= nodes["replicas"] <= nodes["maxReplicas"]


def test_the_sample_has_the_ray_of_the_image() -> None:
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    assert CLUSTER["spec"]["rayVersion"] == pinned["ray"]
    images = {container["image"] for pod in pods() for container in pod["containers"]}
    assert images == {COMPOSE["services"]["ray-head"]["image"]}


def test_every_pod_is_hardened_as_the_containers_of_compose_are() -> None:
    for pod in pods():
        assert pod["automountServiceAccountToken"] is False
        user = pod["securityContext"]
        assert (user["runAsNonRoot"], user["runAsUser"], user["fsGroup"]) == (True, 10001, 10001)
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": COMPOSE["services"]["ray-head"]["cap_drop"]},
            }
            assert container["resources"]["requests"] == container["resources"]["limits"]


def test_every_pod_mounts_the_one_store_and_memory_for_objects() -> None:
    for pod in pods():
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes["store"]["persistentVolumeClaim"]["claimName"] == CLAIM["metadata"]["name"]
        assert volumes["object-store"]["emptyDir"]["medium"] == "Memory"
        [container] = pod["containers"]
        paths = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert (paths["/store"], paths["/tmp"], paths["/dev/shm"]) == ("store", "tmp", "object-store")
    assert CLAIM["spec"]["accessModes"] == ["ReadWriteMany"]


def test_nobody_uses_the_cluster_without_its_token() -> None:
    name = CLUSTER["metadata"]["name"]
    assert CLUSTER["spec"]["authOptions"] == {"mode": "token"}
    env = {each["name"]: each for each in WORKER["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert env["RAY_AUTH_MODE"]["value"] == "token"
    assert env["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]["name"] == name
    assert env["RAY_ADDRESS"]["value"] == f"{name}-head-svc:6379"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, []),
        ({"replics": 4}, ["spec: Additional properties are not allowed ('replics' was unexpected)"]),
        ({"replicas": "4"}, ["spec.replicas: '4' is not of type 'integer'"]),
    ],
)
def test_the_check_names_what_kuberay_would_refuse_or_drop(change: dict[str, Any], said: list[str]) -> None:
    spec = {"type": "object", "properties": {"replicas": {"type": "integer"}, "params": TEXTS}}
    fields = {"apiVersion": TEXT, "kind": TEXT, "metadata": {"type": "object"}, "spec": spec}
    version = {"name": "v1", "schema": {"openAPIV3Schema": {"type": "object", "properties": fields}}}
    crd = {"spec": {"names": {"kind": "RayCluster"}, "versions": [version]}}
    document = {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": "any"},
        "spec": {"replicas": 4, "params": {"num-cpus": "0"}, **change},
    }
    assert list(CHECK["problems"](crd, document)) == said
