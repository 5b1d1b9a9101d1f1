"""Checks a RayCluster against KubeRay's own definition of one, unknown fields included.

    curl -LO https://raw.githubusercontent.com/ray-project/kuberay/v1.6.2/helm-chart/kuberay-operator/crds/ray.io_rayclusters.yaml
    python deploy/kuberay/check.py ray.io_rayclusters.yaml deploy/kuberay/raycluster.yaml

Kubernetes drops fields that it does not know without a word, so a misspelt one is an error here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import yaml
from jsonschema import Draft7Validator

Node = dict[str, object]


def definition(crd: Node, version: str) -> Node:
    """The schema of one version of a CustomResourceDefinition, which allows the fields that it names alone."""
    spec = crd["spec"]
    assert isinstance(spec, dict)
    found: Node = next(each for each in spec["versions"] if each["name"] == version)["schema"]["openAPIV3Schema"]
    return closed(found)


def closed(schema: Node) -> Node:
    """``schema`` with no other fields than it names, wherever it names some."""
    fields = schema.get("properties")
    sealed = isinstance(fields, dict) and not schema.get("x-kubernetes-preserve-unknown-fields")
    made: Node = {}
    for name, value in schema.items():
        if name == "properties" and isinstance(value, dict):
            made[name] = {each: closed(of) for each, of in value.items()}
        elif isinstance(value, dict) and name in {"items", "additionalProperties"}:
            made[name] = closed(value)
        else:
            made[name] = value
    if sealed and "additionalProperties" not in schema:
        made["additionalProperties"] = False
    return made


def problems(crd: Node, document: Node) -> Iterator[str]:
    """What is wrong with a document, each with its place."""
    version = str(document["apiVersion"]).rpartition("/")[2]
    for error in Draft7Validator(definition(crd, version)).iter_errors(document):
        yield f"{'.'.join(str(each) for each in error.absolute_path)}: {error.message[:300]}"


def main(crd: str, *files: str) -> int:
    """Check every RayCluster in ``files``; the exit status."""
    known = yaml.safe_load(Path(crd).read_text(encoding="utf-8"))
    found: list[str] = []
    checked = 0
    for file in files:
        for document in yaml.safe_load_all(Path(file).read_text(encoding="utf-8")):
            if document["kind"] != known["spec"]["names"]["kind"]:
                continue
            checked += 1
            found += [f"{file}: {problem}" for problem in problems(known, document)]
    sys.stdout.write("\n".join([*found, f"{checked} checked, {len(found)} problems"]) + "\n")
    return 1 if found or not checked else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
