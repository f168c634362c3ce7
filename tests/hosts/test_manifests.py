"""The manifests of deploy/kubernetes: sound by their kinds' own definitions, and saying to each host what it needs."""

from __future__ import annotations

import re
import shlex
import tomllib
from copy import deepcopy
from itertools import pairwise
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from hosts.manifests import FOLDER, Pod, document, documents, faults, pods, ray_pods
from paths import TESTS
from unisono.hosts.launchers import place

NAMES = ["jobset.yaml", "pytorchjob.yaml", "rayjob.yaml", "trainjob.yaml"]
OF_PODS = [name for name in NAMES if name != "rayjob.yaml"]
QUANTITY = re.compile(r"\d+(\.\d+)?(m|[kMGTPE]i?)?")
"""Of Kubernetes' quantities the forms that the manifests use."""


def of(name: str) -> list[Pod]:
    return ray_pods(name) if name == "rayjob.yaml" else pods(name)


def test_every_manifest_is_tested() -> None:
    assert sorted(path.name for path in FOLDER.iterdir()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_manifest_is_sound(name: str) -> None:
    for each in documents(name):
        assert faults(each) == []


@pytest.mark.parametrize(("name", "kind", "path", "value", "fault"), [
    ("trainjob.yaml", "TrainJob", "spec.numNodes", 3, "'numNodes' was unexpected"),
    ("trainjob.yaml", "TrainJob", "spec.trainer.numNodes", "3", "'3' is not of type 'integer'"),
    ("trainjob.yaml", "TrainJob", "spec.runtimeRef.name", None, "'name' is a required property"),
    ("trainjob.yaml", "TrainJob", "apiVersion", "trainer.kubeflow.org/v2", "'trainer.kubeflow.org/v1alpha1' was"),
    ("trainjob.yaml", "TrainingRuntime", "spec.mlPolicy.torch.numProcPerNode", 1, "'numProcPerNode' was unexpected"),
    ("trainjob.yaml", "TrainingRuntime", "spec.template.spec.replicatedJobs.0.template.spec.backoff", 1,
     "'backoff' was unexpected"),
    ("jobset.yaml", "JobSet", "spec.network.subDomain", "x", "'subDomain' was unexpected"),
    ("jobset.yaml", "JobSet", "spec.replicatedJobs.0.name", None, "'name' is a required property"),
    ("jobset.yaml", "JobSet", "spec.replicatedJobs.0.template.spec.template.spec.volumes.0.emptyDirs", {},
     "'emptyDirs' was unexpected"),
    ("pytorchjob.yaml", "PyTorchJob", "spec.nprocPerNode", 1, "1 is not of type 'string'"),
    ("pytorchjob.yaml", "PyTorchJob", "spec.pytorchReplicaSpecs.Worker.restartPolicy", "Sometimes", "is not one of"),
    ("pytorchjob.yaml", "PyTorchJob", "spec.pytorchReplicaSpecs.Chief", {}, "'Chief' was unexpected"),
    ("rayjob.yaml", "RayJob", "spec.entryPoint", "x", "'entryPoint' was unexpected"),
    ("rayjob.yaml", "RayJob", "spec.rayClusterSpec.workerGroupSpecs.0.maxReplicas", None, "'maxReplicas' is a"),
    ("rayjob.yaml", "RayJob", "spec.rayClusterSpec.headGroupSpec.rayStartParams.num-cpus", 0, "0 is not of type 'str"),
    ("rayjob.yaml", "RayJob", "spec.rayClusterSpec.headGroupSpec.template.spec.containers.0.imagee", "x",
     "'imagee' was unexpected"),
])  # fmt: skip
def test_what_a_definition_does_not_allow_is_found(name: str, kind: str, path: str, value: Any, fault: str) -> None:
    made = deepcopy(document(name, kind))
    *way, last = path.split(".")
    inner: Any = made
    for step in way:
        inner = inner[int(step)] if isinstance(inner, list) else inner[step]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    assert any(fault in each for each in faults(made)), faults(made)


@pytest.mark.parametrize("name", NAMES)
def test_every_pod_brings_what_a_host_needs(name: str) -> None:
    claim = document(name, "PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for pod in of(name):
        volumes = {volume.pop("name"): volume for volume in deepcopy(pod.spec["volumes"])}
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in pod.container["volumeMounts"]}
        assert mounts["/runs"] == {"persistentVolumeClaim": {"claimName": claim["metadata"]["name"]}}
        assert mounts["/jobs"] == {"configMap": {"name": "unisono-job"}}
        assert mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory"
        resources = pod.container["resources"]
        assert resources["requests"] == resources["limits"], "who may be evicted for memory first is nobody's choice"
        sizes = [mounts["/dev/shm"]["emptyDir"]["sizeLimit"], *resources["limits"].values()]
        assert all(QUANTITY.fullmatch(size) for size in sizes)
        assert pod.spec["securityContext"]["runAsNonRoot"]
        assert pod.spec["terminationGracePeriodSeconds"] >= 60


@pytest.mark.parametrize("name", OF_PODS)
def test_every_pod_finds_its_place(name: str) -> None:
    made = pods(name)
    for index, pod in enumerate(made):
        command = pod.command()
        given = dict(word.split("=", 1) for word in command if re.match(r"[A-Z_]+=", word))  # through `env`
        found = place({**pod.environment(), **given}, "pod")
        assert found is not None
        assert (found.host, found.hosts, found.serves) == (index, len(made), index == 0)
        assert found.address == made[0].name
        workers = command[command.index("--workers") + 1]
        assert workers == pod.container["resources"]["limits"]["cpu"]


@pytest.mark.parametrize("name", ["jobset.yaml", "trainjob.yaml"])
def test_what_cannot_succeed_is_not_tried_again(name: str) -> None:
    kind = "JobSet" if name == "jobset.yaml" else "TrainingRuntime"
    spec = document(name, kind)["spec"]
    (replicated,) = spec.get("template", {"spec": spec})["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    ignore, fail = job["podFailurePolicy"]["rules"]
    assert (ignore["action"], ignore["onPodConditions"]) == ("Ignore", [{"type": "DisruptionTarget", "status": "True"}])
    assert (fail["action"], fail["onExitCodes"]["values"]) == ("FailJob", [2])
    assert job["template"]["spec"]["restartPolicy"] == "Never", "podFailurePolicy takes it"
    (container,) = job["template"]["spec"]["containers"]
    assert fail["onExitCodes"]["containerName"] == container["name"]


def test_a_rayjob_asks_for_what_its_cluster_has() -> None:
    spec = document("rayjob.yaml", "RayJob")["spec"]
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    words = shlex.split(spec["entrypoint"])
    options = dict(pairwise(words))
    assert int(options["--hosts"]) == group["replicas"] == group["minReplicas"]
    (container,) = group["template"]["spec"]["containers"]
    assert options["--workers-per-host"] == container["resources"]["limits"]["cpu"]
    project = tomllib.loads((TESTS.parent / "pyproject.toml").read_text())["project"]
    (ray,) = map(Requirement, project["optional-dependencies"]["ray"])
    assert ray.specifier.contains(Version(spec["rayClusterSpec"]["rayVersion"]))
    assert "default" in ray.extras, "the job server"
