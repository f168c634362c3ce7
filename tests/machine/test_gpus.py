"""GPUs as the driver's program lists them, here one that is written by hand, and what is said of them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import unisono
from unisono.errors import UsageError
from unisono.machine import gpus
from unisono.machine.gpu_checks import check_gpus, crowded, refuse_cuda
from unisono.machine.gpus import Build, Gpu, parsed, parsed_links, parsed_processes
from waiting import limit

LISTED = (
    "GPU-a, NVIDIA H200, 143771, 140000, 570.86.15, Disabled\nGPU-b, NVIDIA H200, 143771, [N/A], 570.86.15, [N/A]\n"
)
LINKS = (
    "\x1b[4mGPU0\tGPU1\tNIC0\tCPU Affinity\x1b[0m\nGPU0\t X \tNV18\tPIX\t0-15\nGPU1\tNV18\t X \tSYS\t0-15\nNIC0\tPIX\n"
)
CUDA = Build("2.11.0+cu130", "13.0", "2.27.5")
PLAIN = Build("2.13.0+cpu", None, None)


def test_what_the_driver_lists() -> None:
    first, second = parsed(LISTED, {"GPU-a": 132})
    assert first == Gpu("GPU-a", "NVIDIA H200", "570.86.15", 143771 << 20, 140000 << 20, 132)
    assert (second.free_bytes, second.is_visible) == (0, False)
    assert parsed("NVIDIA-SMI has failed because it couldn't communicate\n", {}) == []
    assert parsed_links(LINKS) == "GPU0-GPU1 NV18"
    assert parsed_links("") == ""


def test_what_is_said_of_them() -> None:
    found = {each.name: each for each in check_gpus(parsed(LISTED, {"GPU-a": 132}), "GPU0-GPU1 NV18", CUDA, "0")}
    assert found["GPU 0"].found == (
        "NVIDIA H200, 136.7 GiB free of 140.4 GiB, driver 570.86.15, 132 multiprocessors"
    )  # fmt: skip
    assert (found["GPU 1"].state, found["GPU 1"].mend[:34]) == ("warning", "Here CUDA_VISIBLE_DEVICES='0' hide")
    assert (found["links"].found, found["torch"].found) == (
        "GPU0-GPU1 NV18", "2.11.0+cu130, built for CUDA 13.0, NCCL 2.27.5",
    )  # fmt: skip
    (alone,) = check_gpus([], "", PLAIN, None)
    assert (alone.name, alone.found) == ("torch", "2.13.0+cpu, built without CUDA")


SEEN, HIDDEN = parsed(LISTED, {"GPU-a": 132}), parsed(LISTED, {})
MIXED = [SEEN[0], replace(SEEN[1], name="NVIDIA A100", free_bytes=1 << 34, multiprocessors=108), replace(SEEN[0])]
CUT = [replace(SEEN[0], is_cut=True), SEEN[1]]
FULL = [replace(SEEN[0], free_bytes=300 << 20)]


@pytest.mark.parametrize(("here", "build", "hidden_by", "text"), [
    ([], CUDA, None, r"driver answers nvidia-smi; there is none here\. Leave device out"),
    (HIDDEN, CUDA, "", r"of 2 here it sees none: CUDA_VISIBLE_DEVICES=''\. Name some .*Leave device out"),
    (HIDDEN, CUDA, "7", r"it sees none: CUDA_VISIBLE_DEVICES='7'"),
    (HIDDEN, CUDA, None, r"it sees none: libcuda\.so\.1 does not answer"),
    (SEEN, PLAIN, None, r"2\.13\.0\+cpu is built without CUDA\. pip install torch"),
    (SEEN, Build(None, None, None), None, "built for CUDA; none is installed"),
    (SEEN, CUDA, "0,7", r"CUDA_VISIBLE_DEVICES='0,7' names 2, and CUDA sees 1 of them: it stops at a name .*Leave dev"),
    (MIXED, CUDA, None, r"one model, .* H200 with 132 .* \(GPU-a GPU-a\), .* A100 with 108 .*DEVICES=GPU-a,GPU-a\. L"),
    (CUT, CUDA, "0", r"received CUDA_VISIBLE_DEVICES='0' where a GPU is cut into parts\. .*=MIG-\.\.\., with commas"),
    ([replace(HIDDEN[0], is_cut=True)], CUDA, None, "received CUDA_VISIBLE_DEVICES=None where a GPU is cut into parts"),
    (FULL, CUDA, None, r"with 1\.0 GiB of free memory.*H200 \(GPU-a\) has 300 MiB of 140\.4 GiB\. End what uses it"),
])  # fmt: skip
def test_training_on_them_is_refused_with_what_stands_in_the_way(
    here: list[Gpu], build: Build, hidden_by: str | None, text: str
) -> None:
    with pytest.raises(UsageError, match=text):
        refuse_cuda(here, build, hidden_by)
    refuse_cuda(SEEN[:1], CUDA, None)


def test_parts_of_gpus_that_are_named_and_gpus_of_one_model_are_taken() -> None:
    refuse_cuda(CUT, CUDA, "MIG-1,MIG-2")
    refuse_cuda([replace(SEEN[0], is_cut=False), *CUT[1:]], CUDA, "0")
    refuse_cuda([SEEN[0], replace(SEEN[0], uuid="GPU-c")], CUDA, "1,0")


def test_others_on_a_gpu_are_named() -> None:
    found = parsed_processes("GPU-a, 4711, 2048\nGPU-b, 4712, [N/A]\nGPU-c, 1, 9\n")
    text = crowded(found, ["GPU-a", "GPU-b"])
    assert text
    assert text.startswith("processes 4711, 4712 compute on GPUs of this run (2.0 GiB): steps take longer")


def test_a_refused_device_leaves_no_folder(tmp_path: Path) -> None:
    out = tmp_path / "run"
    job = unisono.Job(model=dict, loss=max, optimizer=list, data=[(0, 1)], batch_size=1, epochs=1)
    with pytest.raises(UsageError, match="device='cuda' is for"):
        unisono.start(job, device="cuda", out=out)
    assert not out.exists()


def test_the_driver_s_program_is_asked(tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!{sys.executable}\nimport sys\nprint({LINKS!r} if 'topo' in sys.argv else {LISTED!r})\n")
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", "unisono", "devices"], capture_output=True, text=True, env=environment, timeout=limit(),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    lines = {line.split(maxsplit=1)[1].split("  ")[0]: line for line in done.stdout.splitlines() if "->" not in line}
    assert "CUDA does not see it" in lines["GPU 1"]
    assert "GPU0-GPU1 NV18" in lines["links"]


def test_no_program_means_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (gpus.gpus(), gpus.links()) == ([], "")


def test_software_is_read_and_not_imported() -> None:
    import torch

    build = gpus.build()
    assert (build.torch, build.cuda) == (torch.__version__, torch.version.cuda)
