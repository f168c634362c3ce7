"""This host's NVIDIA GPUs, asked of the driver's program and in a process apart: CUDA is never begun in this one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

_QUERY = ("uuid", "name", "memory.total", "memory.free", "driver_version", "mig.mode.current")
_PATIENCE_SECONDS = 20
"""A driver that is being loaded takes some seconds to answer; a broken one never does."""

# As CUDA sees them: what CUDA_VISIBLE_DEVICES leaves, by UUID, with the number of multiprocessors (attribute 16).
_CUDA = """
import ctypes, json, uuid
cuda, name = ctypes.CDLL("libcuda.so.1"), (ctypes.c_ubyte * 16)()
count, device, number = (ctypes.c_int() for _ in range(3))
found = {}
if cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(ctypes.byref(count)) == 0:
    for index in range(count.value):
        cuda.cuDeviceGet(ctypes.byref(device), index)
        cuda.cuDeviceGetUuid(name, device)
        cuda.cuDeviceGetAttribute(ctypes.byref(number), 16, device)
        found[f"GPU-{uuid.UUID(bytes=bytes(name))}"] = number.value
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
        uuid, name, driver: as the driver says.
        memory_bytes, free_bytes: its memory, and what nobody has taken of it.
        multiprocessors: how many it has; None where CUDA does not see it here.
        is_cut: whether it is cut into parts that stand for GPUs (MIG).
    """

    uuid: str
    name: str
    driver: str
    memory_bytes: int
    free_bytes: int
    multiprocessors: int | None = None
    is_cut: bool = False

    @property
    def is_visible(self) -> bool:
        """Whether CUDA sees it: CUDA_VISIBLE_DEVICES may hide it."""
        return self.multiprocessors is not None


def gpus() -> list[Gpu]:
    """Those of this host, visible or not; none where the driver's program is missing or does not answer."""
    listed = _told("nvidia-smi", f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits")
    if not listed.strip():
        return []
    return parsed(listed, json.loads(_told(sys.executable, "-c", _CUDA) or "{}"))


def parsed(listed: str, visible: Mapping[str, int]) -> list[Gpu]:
    """GPUs from what nvidia-smi lists.

    Args:
        listed: a line a GPU: UUID, name, memory and free memory in MiB, driver, whether it is cut into parts.
        visible: multiprocessors of those that CUDA sees, by UUID.

    >>> (gpu,) = parsed("GPU-1, H200, 143771, 2048, 570.1, [N/A]", {})
    >>> gpu.name, gpu.free_bytes >> 30, gpu.is_visible
    ('H200', 2, False)
    """
    found = []
    for line in filter(None, listed.splitlines()):
        fields = [each.strip() for each in line.split(",")]
        if len(fields) == len(_QUERY):  # else it is an error's text
            uuid, name, total, free, driver, mig = fields
            sizes = _mebibytes(total), _mebibytes(free)
            found.append(Gpu(uuid, name, driver, *sizes, visible.get(uuid), mig == "Enabled"))
    return found


@dataclass(frozen=True)
class GpuProcess:
    """A process that computes on a GPU.

    Attributes:
        gpu: its UUID.
        process: the process's number, where it is in sight.
        memory_bytes: what it has there.
    """

    gpu: str
    process: str
    memory_bytes: int


def processes() -> list[GpuProcess]:
    """Those that compute on this host's GPUs, as far as the driver's program tells."""
    fields = "--query-compute-apps=gpu_uuid,pid,used_memory"
    return parsed_processes(_told("nvidia-smi", fields, "--format=csv,noheader,nounits"))


def parsed_processes(listed: str) -> list[GpuProcess]:
    """The same from what nvidia-smi lists.

    >>> parsed_processes("GPU-1, 4711, 2048")
    [GpuProcess(gpu='GPU-1', process='4711', memory_bytes=2147483648)]
    >>> parsed_processes("No running processes found")
    []
    """
    rows = [[each.strip() for each in line.split(",")] for line in listed.splitlines()]
    return [GpuProcess(row[0], row[1], _mebibytes(row[2])) for row in rows if len(row) == 3]


def _mebibytes(text: str) -> int:
    return int(text) << 20 if text.isdigit() else 0  # [N/A] where a GPU shares the host's memory


def links() -> str:
    """How GPUs are joined, a pair each: NV18 is 18 NVLinks, PIX, PHB, NODE and SYS are ways over PCIe."""
    return parsed_links(_told("nvidia-smi", "topo", "-m"))


def parsed_links(table: str) -> str:
    r"""The pairs of `nvidia-smi topo -m`.

    >>> parsed_links("\tGPU0\tGPU1\tCPU Affinity\nGPU0\t X \tNV18\t0-15\nGPU1\tNV18\t X \t0-15\n")
    'GPU0-GPU1 NV18'
    """
    rows = [row for line in table.splitlines() if (row := line.split("\t"))[0].startswith("GPU")]
    pairs = [
        f"{row[0]}-{other[0]} {row[column + 1].strip()}"
        for number, row in enumerate(rows) for column, other in enumerate(rows) if number < column < len(row) - 1
    ]  # fmt: skip
    return ", ".join(pairs)


def _told(*command: str) -> str:
    """What a program prints; nothing where it is missing, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


@dataclass(frozen=True)
class Build:
    """What of CUDA's is installed.

    Attributes:
        torch: its version, or None.
        cuda: what CUDA it is built for; None = none.
        nccl: the version of the library by which GPUs exchange, or None.
    """

    torch: str | None
    cuda: str | None
    nccl: str | None


def build() -> Build:
    """Read of the installed files; nothing is imported."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return Build(None, None, None)
    values = assigned((Path(spec.origin).parent / "version.py").read_text())
    names = [f"nvidia-nccl-cu{major}" for major in ("13", "12", "11")]
    return Build(values.get("__version__"), values.get("cuda"), _first_version(names))


def assigned(source: str) -> dict[str, str]:
    """The texts that torch's version file gives names.

    >>> assigned("__version__ = '2.11.0+cu130'\\ncuda: Optional[str] = '13.0'\\nhip: Optional[str] = None\\n")
    {'__version__': '2.11.0+cu130', 'cuda': '13.0'}
    """
    found = {}
    for line in source.splitlines():
        name, equals, value = line.partition(" = ")
        if equals and value[:1] in ("'", '"'):
            found[name.partition(":")[0]] = value.strip().strip("'\"")
    return found


def _first_version(names: Sequence[str]) -> str | None:
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None
