"""The manifests of deploy/kubernetes: sound as Kubernetes sees them, and saying to each host what it needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from unisono.cluster.launchers import place

yaml = pytest.importorskip("yaml")
jsonschema = pytest.importorskip("jsonschema", reason="takes the package kubernetes-validate")
kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="takes the package kubernetes-validate")

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
VERSION = "1.30"


def strict(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    """An object with these fields and no others."""
    return {
        "type": "object", "required": list(required), "properties": {**required, **(optional or {})},
        "additionalProperties": False,
    }  # fmt: skip


COUNT = {"type": "integer", "minimum": 1}
TEMPLATE = strict({"spec": {"type": "object"}}, {"metadata": {"type": "object"}})
REPLICAS = strict(
    {"replicas": COUNT, "template": TEMPLATE}, {"restartPolicy": {"enum": ["Always", "OnFailure", "Never", "ExitCode"]}}
)
# Of these kinds' own definitions the part that the manifests use.
SPECS = {
    ("kubeflow.org/v1", "PyTorchJob"): strict(
        {"pytorchReplicaSpecs": strict({"Master": REPLICAS}, {"Worker": REPLICAS})},
        {
            "nprocPerNode": {"type": "string"},
            "runPolicy": strict({}, {
                "backoffLimit": COUNT, "cleanPodPolicy": {"enum": ["All", "Running", "None"]},
                "activeDeadlineSeconds": COUNT, "ttlSecondsAfterFinished": COUNT,
            }),
        },
    ),
    ("jobset.x-k8s.io/v1alpha2", "JobSet"): strict(
        {"replicatedJobs": {"type": "array", "minItems": 1, "items": strict(
            {"name": {"type": "string"}, "template": TEMPLATE}, {"replicas": COUNT}
        )}},
        {
            "network": strict({}, {"enableDNSHostnames": {"type": "boolean"}, "subdomain": {"type": "string"}}),
            "failurePolicy": strict({}, {"maxRestarts": {"type": "integer", "minimum": 0}}),
        },
    ),
}  # fmt: skip


def documents(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The volume and the job of a manifest."""
    volume, job = yaml.safe_load_all((FOLDER / name).read_text())
    return volume, job


def natives(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What is in it of Kubernetes' own kinds."""
    meta = {"name": job["metadata"]["name"]}
    for replicas in job["spec"].get("pytorchReplicaSpecs", {}).values():
        pod = {"restartPolicy": replicas["restartPolicy"], **replicas["template"]["spec"]}
        yield {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": pod}
    for replicated in job["spec"].get("replicatedJobs", []):
        yield {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": replicated["template"]["spec"]}


@pytest.mark.parametrize("name", ["pytorchjob.yaml", "jobset.yaml"])
def test_a_manifest_is_sound(name: str) -> None:
    volume, job = documents(name)
    jsonschema.validate(job["spec"], SPECS[job["apiVersion"], job["kind"]])
    found = list(natives(job))
    assert found
    for each in (volume, *found):
        kubernetes_validate.validate(each, VERSION, strict=True)


def test_every_manifest_is_tested() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {"pytorchjob.yaml", "jobset.yaml"}


@pytest.mark.parametrize("index", [0, 1])
def test_pods_of_a_jobset_find_their_places(index: int) -> None:
    _, job = documents("jobset.yaml")
    (replicated,) = job["spec"]["replicatedJobs"]
    spec = replicated["template"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    variables = {each["name"]: each.get("value", str(index)) for each in container["env"]}
    found = place({**variables, "KUBERNETES_SERVICE_HOST": "10.96.0.1"}, "pod")
    assert found is not None
    assert (found.host, found.hosts, found.serves) == (index, spec["completions"], index == 0)
    name, subdomain = job["metadata"]["name"], job["spec"]["network"]["subdomain"]
    assert found.address == f"{name}-{replicated['name']}-0-0.{subdomain}"
