"""deploy/Dockerfile: sound, in step with pyproject.toml and the manifests; what it copies is enough to train."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from hosts.host_processes import job_file
from hosts.manifests import FOLDER, ray_pods
from paths import TESTS
from waiting import limit

ROOT = TESTS.parent
TEXT = (ROOT / "deploy" / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
KNOWN = {"ARG", "FROM", "RUN", "COPY", "USER", "WORKDIR", "ENTRYPOINT", "CMD"}


def instructions() -> list[tuple[str, str]]:
    """Each instruction and what stands after it."""
    lines = "\n".join(line for line in TEXT.splitlines() if not line.lstrip().startswith("#"))
    found = [line.split(maxsplit=1) for line in re.sub(r"\\\n\s*", "", lines).splitlines() if line]
    return [(name, rest) for name, rest in found]


def of(name: str) -> list[str]:
    return [rest for each, rest in instructions() if each == name]


def copied(folder: Path) -> list[str]:
    """Copy what the image's COPY does, leaving out what .dockerignore does; the names of its sources."""
    ignored, *kept = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("**")]
    assert ignored == "*"
    names = [name for line in of("COPY") for name in line.split()[:-1]]
    for name in names:
        assert f"!{name}" in kept, f".dockerignore keeps {name} from the build"
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, folder / name, ignore=lambda _, all_of: {n for n in all_of if n == "__pycache__"}
            )
        else:
            shutil.copy(ROOT / name, folder)
    return names


def test_its_instructions_are_sound() -> None:
    names = [name for name, _ in instructions()]
    assert set(names) <= KNOWN
    assert names[:2] == ["ARG", "FROM"]
    assert all(fnmatch(each, "*:*") and not each.endswith(":latest") for each in of("FROM"))
    for line in of("RUN"):
        for install in re.findall(r"apt-get install .*", line):
            assert line.startswith("apt-get update && ")
            assert "--no-install-recommends" in install
            assert install.endswith("rm -rf /var/lib/apt/lists/*")
        assert "pip install" not in line or "--no-cache-dir" in line
    assert json.loads(of("ENTRYPOINT")[0]) == ["unisono"]
    assert "unisono" in PROJECT["scripts"]
    assert isinstance(json.loads(of("CMD")[0]), list)


def test_it_installs_what_the_project_names() -> None:
    extras = PROJECT["optional-dependencies"]
    named = re.findall(r"EXTRAS=([\w,]+)", TEXT)
    assert len(named) >= 4
    assert {extra for each in named for extra in each.split(",")} <= extras.keys()
    (torch,) = re.findall(r'"(torch[^"]*)"', TEXT)
    assert [Requirement(torch)] == [Requirement(each) for each in extras["torch"]]
    (python,) = (rest.removeprefix("PYTHON=") for rest in of("ARG") if rest.startswith("PYTHON="))
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(python)


def test_its_user_is_the_manifests_and_not_root() -> None:
    (user,) = of("USER")
    assert int(user) > 0, "runAsNonRoot takes a number"
    assert any(re.search(rf"useradd .*--uid {user}\b", line) for line in of("RUN"))
    assert set(re.findall(r"runAsUser: (\d+)", "".join(path.read_text() for path in FOLDER.iterdir()))) == {user}
    assert all("command" not in pod.container for pod in ray_pods("rayjob.yaml")), "KubeRay's own starts Ray"


@pytest.mark.hosts
def test_what_it_copies_trains_as_the_first_process_of_a_container(tmp_path: Path) -> None:
    """Process 1, with no more rights than a file's owner has, and an environment of its own."""
    if os.geteuid():
        pytest.skip("a container's namespaces take root")
    source, site = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    copied(source)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(source)]
    done = subprocess.run(install, capture_output=True, text=True, timeout=limit())
    assert done.returncode == 0, done.stderr
    job_file(tmp_path, "jobs.make(steps=3)")
    isolate = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    isolate += ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--"]
    train = [sys.executable, "-m", "unisono", "train", "job.py", "--workers", "2", "--out", "out"]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(map(str, (site, TESTS)))}
    done = subprocess.run(
        [*isolate, *train], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=limit()
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"parameters \w{64}", done.stdout)
