"""The manifests of deploy/kubernetes, checked against their kinds' definitions and made into pods as operators do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

import pytest

from paths import TESTS

yaml = pytest.importorskip("yaml")
jsonschema = pytest.importorskip("jsonschema", reason="takes the package kubernetes-validate")
pytest.importorskip("kubernetes_validate", reason="takes the package kubernetes-validate")

FOLDER = TESTS.parent / "deploy" / "kubernetes"
SCHEMAS = TESTS / "hosts" / "schemas"
KUBERNETES = "https://kubernetes.io/api/_definitions.json#/$defs/"
VERSION = "1.33.0"
"""Of Kubernetes' own definitions."""


def documents(name: str) -> list[dict[str, Any]]:
    """What a manifest holds."""
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


def document(name: str, kind: str) -> dict[str, Any]:
    """What a manifest holds of a kind."""
    (found,) = (each for each in documents(name) if each["kind"] == kind)
    return found


# -- definitions -----------------------------------------------------------------------------------------------


def closed(schema: Any) -> Any:
    """A schema as it stands in a file, whose objects have the fields that are named and no others."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    if str(made.get("$ref", "")).startswith("io.k8s."):
        made["$ref"] = KUBERNETES + made["$ref"]
    if isinstance(made.get("properties"), dict) and "$ref" not in made["properties"]:
        made |= {"type": "object", "additionalProperties": False}
    return made


@cache
def kinds() -> dict[str, Any]:
    """A validator for each kind that the manifests use, strict down to the last field."""
    from referencing import Registry, Resource

    native = (
        resources.files("kubernetes_validate") / f"kubernetes-json-schema/v{VERSION}-local-strict/_definitions.json"
    )
    made = [yaml.safe_load(native.read_text()), *(closed(yaml.safe_load(p.read_text())) for p in SCHEMAS.iterdir())]
    draft = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    registry = Registry().with_resources([(each["$id"], Resource.from_contents({**draft, **each})) for each in made])
    where = {kind: f"{each['$id']}#/$defs/{kind}" for each in made[1:] for kind in each["$defs"]}
    where["PersistentVolumeClaim"] = f"{KUBERNETES}io.k8s.api.core.v1.PersistentVolumeClaim"
    return {
        kind: jsonschema.Draft202012Validator({**draft, "$ref": place}, registry=registry)
        for kind, place in where.items()
    }


def faults(made: dict[str, Any]) -> list[str]:
    """What a document's definition does not allow."""
    found = kinds()[made["kind"]].iter_errors(made)
    return [error.message for error in found]


# -- pods ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pod:
    """What an operator makes of a manifest.

    Attributes:
        name: how the others find it, where they do.
        spec: its own.
        variables: what the operator adds to its container's environment.
        index: of a Job's pod.
    """

    name: str
    spec: dict[str, Any]
    variables: dict[str, str] = field(default_factory=dict)
    index: int = 0

    @property
    def container(self) -> dict[str, Any]:
        """Its only container."""
        (found,) = self.spec["containers"]
        return found

    def environment(self) -> dict[str, str]:
        """The container's variables."""
        own = {each["name"]: self._value(each) for each in self.container.get("env", [])}
        return {"KUBERNETES_SERVICE_HOST": "10.96.0.1", **own, **self.variables}

    def _value(self, variable: dict[str, Any]) -> str:
        if "value" in variable:
            return str(variable["value"])
        path = variable["valueFrom"]["fieldRef"]["fieldPath"]
        assert path == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
        return str(self.index)

    def command(self) -> list[str]:
        """What the container runs, with $(NAME) put in as Kubernetes does."""
        words = [*self.container["command"], *self.container.get("args", [])]
        values = self.environment()
        return [re.sub(r"\$\((\w+)\)", lambda name: values[name[1]], word) for word in words]


def pods(name: str) -> list[Pod]:
    """The pods of a manifest, each of which is a host."""
    return list({"jobset.yaml": _jobset, "trainjob.yaml": _trainjob, "pytorchjob.yaml": _pytorchjob}[name](name))


def _jobset(name: str) -> Iterator[Pod]:
    job = document(name, "JobSet")
    (replicated,) = job["spec"]["replicatedJobs"]
    made = replicated["template"]["spec"]
    stem = f"{job['metadata']['name']}-{replicated['name']}-0"
    for index in range(made["completions"]):
        full = f"{stem}-{index}.{job['spec']['network']['subdomain']}"
        yield Pod(full, made["template"]["spec"], index=index)


def _trainjob(name: str) -> Iterator[Pod]:
    """As Trainer 2.3 does it: the runtime's template, over which the job's trainer is laid."""
    job, runtime = document(name, "TrainJob"), document(name, "TrainingRuntime")
    assert job["spec"]["runtimeRef"]["kind"] == "TrainingRuntime"
    assert job["spec"]["runtimeRef"]["name"] == runtime["metadata"]["name"]
    (replicated,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    spec = replicated["template"]["spec"]["template"]["spec"]
    trainer = job["spec"]["trainer"]
    laid = {key: trainer[key] for key in ("command", "args", "env", "image") if key in trainer}
    (container,) = spec["containers"]
    container = {**container, **laid, "resources": trainer["resourcesPerNode"]}
    stem = job["metadata"]["name"]
    for index in range(trainer["numNodes"]):
        variables = {
            "PET_NNODES": str(trainer["numNodes"]), "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]),
            "PET_NODE_RANK": str(index), "PET_MASTER_ADDR": f"{stem}-node-0-0.{stem}", "PET_MASTER_PORT": "29400",
        }  # fmt: skip
        yield Pod(f"{stem}-node-0-{index}.{stem}", {**spec, "containers": [container]}, variables, index)


def _pytorchjob(name: str) -> Iterator[Pod]:
    job = document(name, "PyTorchJob")
    specs, stem = job["spec"]["pytorchReplicaSpecs"], job["metadata"]["name"]
    names = [(kind, index) for kind, spec in specs.items() for index in range(spec["replicas"])]
    for rank, (kind, index) in enumerate(names):
        variables = {
            "RANK": str(rank), "WORLD_SIZE": str(len(names)), "MASTER_ADDR": f"{stem}-master-0", "MASTER_PORT": "23456",
        }  # fmt: skip
        yield Pod(f"{stem}-{kind.lower()}-{index}", specs[kind]["template"]["spec"], variables)


def ray_pods(name: str) -> list[Pod]:
    """The head of a RayJob's cluster, and one pod of each group of workers."""
    cluster = document(name, "RayJob")["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [Pod(group.get("groupName", "head"), group["template"]["spec"]) for group in groups]
