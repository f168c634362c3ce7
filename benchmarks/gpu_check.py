"""Whether a GPU keeps what Unisono promises, and what it costs there: for a machine that has one, in eight minutes.

python benchmarks/gpu_check.py --out benchmarks/results/gpu.json

Each part is a process with a limit of its own; what it finds is in the file as soon as it is known, the most important
first: (environment) what is there, and a process that has seen no GPU forks one that uses it; (bits) one hash for any
number of workers, and for a plain loop that has nothing of Unisono; (filled) the same while most of the memory is
taken; (kills) workers that are killed; (memory) bytes a parameter; (speed) step times beside plain loops and DDP;
(late) whether kernels of a killed process still write. Exit status 1: a promise does not hold, or a part failed.
`--stand-in` is for tests: tiny models, and processes that compute with the CPU as a device.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import random
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.multiprocessing
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "src"
sys.path.insert(0, str(SOURCE))  # it need not be installed here

from unisono import Job  # noqa: E402
from unisono.gradients.tree import fold  # noqa: E402
from unisono.machine.facts import gather  # noqa: E402
from unisono.machine.gpus import build, gpus, links  # noqa: E402
from unisono.observe.progress import Silent  # noqa: E402
from unisono.runs.execution import Execution, Supervised, supervised  # noqa: E402
from unisono.runs.observation import Observation  # noqa: E402
from unisono.runs.request import request_of  # noqa: E402
from unisono.runtime.supervisor.outcome import raise_failure  # noqa: E402
from unisono.settings import Settings  # noqa: E402

LIMIT_SECONDS = 475
LEAST_SECONDS = 5
"""A part that has less left is not begun."""

HEADROOM = 3 << 29
"""Bytes that each worker has while the rest of the memory is taken."""

WANTED = {"memory": 1.05, "speed": 1.05}
KILLS: tuple[tuple[int, tuple[tuple[str, int, int], ...]], ...] = (
    (2, (("microbatch", 2, 0),)), (2, (("exchange", 3, 1),)), (2, (("update", 2, 0),)), (2, (("updated", 3, 1),)),
    (2, (("microbatch", 4, 1),)), (1, (("update", 3, 0), ("microbatch", 6, 0))),
)  # fmt: skip
"""Of so many workers, those where they are in a phase of a round: (phase, round, slot)."""

QUEUED = 64
"""Kernels that a process has on their way between two looks."""


@dataclass(frozen=True)
class Sizes:
    """How large things are.

    Attributes:
        worlds: numbers of workers.
        bits: width and steps of the models whose bits are compared.
        memory: layers and width of the model whose memory is measured.
        speed: width, layers of the transformer, batch and steps where time is measured.
        late: elements that are written, and tries.
    """

    worlds: tuple[int, ...]
    bits: tuple[int, int]
    memory: tuple[int, int]
    speed: tuple[int, int, int, int]
    late: tuple[int, int]


REAL = Sizes((1, 2, 4), (64, 14), (12, 4096), (512, 6, 256, 60), (64 << 20, 5))
SMALL = Sizes((1, 2), (8, 12), (2, 32), (8, 1, 8, 6), (1 << 10, 1))


# -- what is trained ---------------------------------------------------------------------------------------------


class Cnn(nn.Sequential):
    """Convolutions, batch norm and dropout. (Poolings have backward passes without a deterministic kernel.)"""

    def __init__(self, width: int) -> None:
        super().__init__(
            nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(),
            nn.Linear(width * 16, 10),
        )  # fmt: skip


class Transformer(nn.Module):
    """Embedding, attention and dropout."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(128, width)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.1, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.last = nn.Linear(width, 10)

    def forward(self, words: Tensor) -> Tensor:
        """Class scores of texts."""
        scores: Tensor = self.last(self.layers(self.embedding(words)).mean(1))
        return scores


class Wide(nn.Sequential):
    """Nothing but parameters."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__(*(nn.Linear(width, width) for _ in range(layers)), nn.Linear(width, 10))


class Pooled(nn.Sequential):
    """An operation whose backward pass has no deterministic kernel on GPUs."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 10))


def samples(count: int, kind: str, width: int = 0) -> TensorDataset:
    """Random samples: "images", "texts" or "rows"."""
    generator = torch.Generator().manual_seed(1)
    if kind == "texts":
        inputs = torch.randint(0, 128, (count, 64), generator=generator)
    else:
        inputs = torch.randn((count, 3, 16, 16) if kind == "images" else (count, width), generator=generator)
    return TensorDataset(inputs, torch.randint(0, 10, (count,), generator=generator))


def momentum(model: nn.Module) -> torch.optim.Optimizer:
    """SGD."""
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, fused=True)


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW."""
    return torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)


def made(kind: str, width: int, batch: int, steps: int, layers: int = 2, microbatches: int = 4) -> Job:
    """A job over the same samples in the same order in each epoch."""
    common: dict[str, Any] = {
        "loss": F.cross_entropy, "batch_size": batch, "microbatches": microbatches, "steps": steps,
        "order": "sequential",
    }  # fmt: skip
    if kind == "cnn":
        return Job(model=partial(Cnn, width), optimizer=momentum, data=partial(samples, 4 * batch, "images"), **common)
    if kind == "pooled":
        return Job(model=Pooled, optimizer=momentum, data=partial(samples, 4 * batch, "images"), **common)
    if kind == "wide":
        model, data = partial(Wide, layers, width), partial(samples, 4 * batch, "rows", width)
        return Job(model=model, optimizer=adamw, data=data, **common)
    return Job(
        model=partial(Transformer, width, layers), optimizer=adamw, data=partial(samples, 4 * batch, "texts"),
        clip_norm=0.5, precision="bfloat16", **common,
    )  # fmt: skip


# -- the plain loop: nothing of Unisono but the job -----------------------------------------------------------------


def key(*parts: int | str) -> int:
    """The seed of everything random, by its name."""
    text = "\0".join(("i" if isinstance(part, int) else "s") + str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") // 2


def seed(number: int) -> None:
    """Seed all generators, the device's too."""
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number & 0xFFFFFFFF)


def flags() -> None:
    """No operation may add in an order that changes, or choose a kernel by its speed."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def along_the_tree(leaves: Sequence[Tensor]) -> Tensor:
    """Neighbours are added, then the sums of neighbours, and so on."""
    while len(leaves) > 1:
        leaves = [reduce(add, leaves[at : at + 2]) for at in range(0, len(leaves), 2)]
    return leaves[0]


def norm(gradients: Sequence[Tensor]) -> float:
    """Blocks of 4096 squares, each by halves; blocks one after another in float64."""
    total = 0.0
    for gradient in gradients:
        squares = F.pad((gradient * gradient).flatten(), (0, -gradient.numel() % 4096)).view(-1, 16, 256)
        rows = reduce(add, squares.unbind(1))
        while rows.shape[1] > 1:
            rows = rows[:, : rows.shape[1] // 2] + rows[:, rows.shape[1] // 2 :]
        for partial_sum in rows.flatten().tolist():
            total += partial_sum
    return float(np.sqrt(total))


def autocast(job: Job, device: str) -> contextlib.AbstractContextManager[Any]:
    """As the job's precision says."""
    return torch.autocast(device, torch.bfloat16) if job.precision == "bfloat16" else contextlib.nullcontext()


def plain(job: Job, device: str) -> tuple[str, list[float]]:
    """Train a job by the definition of its result; returns the parameters' digest and the losses."""
    seed(job.seed)
    model = job.model().to(device).train()
    parameters, optimizer, data = list(model.parameters()), job.optimizer(model), job.data()
    batch, each, losses = job.batch_size, job.batch_size // job.microbatches, []
    for step in range(job.steps or 0):
        before, total, grown, left = [b.clone() for b in model.buffers()], 0.0, [], []
        for microbatch in range(job.microbatches):
            with torch.no_grad():
                for buffer, value in zip(model.buffers(), before, strict=True):
                    buffer.copy_(value)
            first = step * batch % len(data) + microbatch * each
            inputs, targets = (t[first : first + each].clone().to(device) for t in data.tensors)
            seed(key(job.seed, "compute", step, microbatch))
            with autocast(job, device):
                loss = job.loss(model(inputs), targets) * each
            grown.append(torch.autograd.grad(loss, parameters))
            left.append([b.clone() for b in model.buffers()])
            total += loss.item()
        losses.append(total / batch)
        gradients = [along_the_tree(leaves) for leaves in zip(*grown, strict=True)]
        gradients = [g / g.new_full((), batch) for g in gradients]
        if job.clip_norm is not None and (factor := min(1.0, job.clip_norm / (norm(gradients) + 1e-6))) < 1.0:
            gradients = [g * g.new_full((), factor) for g in gradients]
        for buffer, *found in zip(model.buffers(), *left, strict=True):
            if buffer.is_floating_point():
                mean = along_the_tree([value.double() * each for value in found])
                buffer.copy_(mean / mean.new_full((), batch))
            else:
                buffer.copy_(found[0])
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
    return digest({name: tensor.cpu().numpy() for name, tensor in model.state_dict().items()}), losses


def digest(arrays: Mapping[str, np.ndarray[Any, Any]]) -> str:
    """Of values by name."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        found.update(name.encode() + b"\0" + np.ascontiguousarray(arrays[name]).tobytes())
    return found.hexdigest()


def timed(job: Job, device: str, kind: str) -> list[float]:
    """Seconds of each step of a loop as people write it, which accumulates gradients over the same microbatches."""
    seed(job.seed)
    model = module = job.model().to(device).train()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as ending:
        if kind == "ddp":
            torch.distributed.init_process_group(
                "gloo" if device == "cpu" else "nccl", init_method=f"file://{folder}/store", rank=0, world_size=1
            )
            ending.callback(torch.distributed.destroy_process_group)
            model = nn.parallel.DistributedDataParallel(module, gradient_as_bucket_view=True)
        optimizer, pieces = job.optimizer(module), job.microbatches
        data = [t.pin_memory() if device != "cpu" else t for t in job.data().tensors]
        seconds = []
        for step in range(job.steps or 0):
            began = time.perf_counter()
            losses = []
            for microbatch in range(pieces):
                first = step * job.batch_size % len(data[0]) + microbatch * job.batch_size // pieces
                rows = slice(first, first + job.batch_size // pieces)
                inputs, targets = (t[rows].to(device, non_blocking=True) for t in data)
                waits = kind == "ddp" and microbatch < pieces - 1
                with model.no_sync() if waits else contextlib.nullcontext():
                    with autocast(job, device):
                        loss = job.loss(model(inputs), targets) / pieces
                    loss.backward()
                losses.append(loss.detach())
            if job.clip_norm is not None:
                nn.utils.clip_grad_norm_(module.parameters(), job.clip_norm)
            optimizer.step()
            optimizer.zero_grad()
            torch.stack(losses).sum().item()
            seconds.append(time.perf_counter() - began)
    return seconds


# -- the parts -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kill:
    """Workers kill themselves once where (phase, round, slot) is one of those; `folder` knows who has."""

    folder: str
    places: tuple[tuple[str, int, int], ...]

    def __call__(self, phase: str, round_: int, slot: int, at: int) -> None:
        """See `Request.phase`."""
        if (phase, round_, slot) in self.places:
            with contextlib.suppress(FileExistsError):
                os.close(os.open(f"{self.folder}/{phase}-{round_}-{slot}", os.O_CREAT | os.O_EXCL))
                os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Ran:
    """What a run gave: the digest of its parameters, its records and messages, how long it took."""

    digest: str
    records: list[dict[str, Any]]
    messages: list[str]
    seconds: float

    @property
    def losses(self) -> list[float]:
        """Of the steps."""
        return [record["loss"] for record in self.records if "loss" in record]

    @property
    def steps(self) -> list[int]:
        """Those of the records."""
        return [record["step"] for record in self.records]


@dataclass(frozen=True)
class Check:
    """A part at work.

    Attributes:
        out, part: where results go, and under which name.
        stand_in: whether the CPU stands in for a GPU.
    """

    out: Path
    part: str
    stand_in: bool

    @property
    def device(self) -> str:
        """What is computed on."""
        return "cpu" if self.stand_in else "cuda"

    @property
    def sizes(self) -> Sizes:
        """Of what is trained."""
        return SMALL if self.stand_in else REAL

    def tell(self, **found: Any) -> None:
        """Keep what has been found."""
        keep(self.out, self.part, found)
        print(f"{self.part}: {json.dumps(found)[:2000]}", flush=True)

    @contextlib.contextmanager
    def held(self, job: Job) -> Iterator[Callable[..., Ran]]:
        """A block in which a job is run as often as one likes: (workers, phase=None, debug=False) → `Ran`."""
        with supervised(job) as execution:
            yield partial(self._run, execution, job)

    def _run(
        self, execution: Supervised, job: Job, workers: int, phase: Kill | None = None, debug: bool = False
    ) -> Ran:  # fmt: skip
        seen, messages = Observation(job, Silent()), list[str]()
        seen.display.message = messages.append  # type: ignore[method-assign]
        request = request_of(Settings(workers=workers, device="cpu" if debug else self.device, debug=debug))
        if self.stand_in and not debug:
            request = replace(request, device="cpu")
        if phase is not None:
            request = replace(request, phase=phase)
        began = time.monotonic()
        with contextlib.ExitStack() as ending:
            run = Execution(job) if debug else ending.enter_context(execution.copied())
            outcome = ending.enter_context(run(request, seen))
            raise_failure(outcome)
            found = digest(outcome.state.saved(outcome.steps_done).arrays)
        return Ran(found, seen.records, messages, round(time.monotonic() - began, 2))

    def program(self, text: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """A program that uses the device in a process of its own and ends when its input does."""
        return subprocess.Popen(
            [sys.executable, "-c", _DEVICE[self.device] + text, *arguments], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, env={**os.environ, **environment},
        )  # fmt: skip

    @contextlib.contextmanager
    def beside(self, text: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """A block beside which a program runs that has said "ready"."""
        program = self.program(text, *arguments)
        try:
            assert program.stdout is not None
            ready = program.stdout.readline()
            if ready != "ready\n":
                raise RuntimeError(f"a program beside this one has not begun: {ready}")
            yield program
        finally:
            program.kill()
            program.communicate()

    def said(self, text: str, *arguments: str, **environment: str) -> str:
        """What a program prints."""
        said, _ = self.program(text, *arguments, **environment).communicate()
        return said.strip()

    def jobs(self) -> dict[str, Job]:
        """Those whose bits are compared."""
        width, steps = self.sizes.bits
        return {kind: made(kind, width, 64, steps) for kind in ("cnn", "transformer")}

    def timed_job(self, name: str) -> Job:
        """One whose steps are timed."""
        width, layers, batch, steps = self.sizes.speed
        return made(name, width if name == "transformer" else width // 4, batch, steps, layers, 2)

    def contender(self, kind: str, job: str) -> Any:
        """What a process of its own gives that trains without Unisono."""
        done = subprocess.run(
            command(self.out, self.stand_in, "--contender", kind, "--job", job), check=True, stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        return json.loads(done.stdout.splitlines()[-1])


def command(out: Path, stand_in: bool, *arguments: str) -> list[str]:
    """This file at work in another process, as a module: what workers are given of it is found by its name."""
    program = f"import sys; sys.path.insert(0, {str(HERE)!r}); import gpu_check; sys.exit(gpu_check.main())"
    return [sys.executable, "-c", program, "--out", str(out), *["--stand-in"] * stand_in, *arguments]


_DEVICE = {
    "cuda": "import os, sys, torch\ndevice, free = 'cuda', lambda: torch.cuda.mem_get_info()[0]\n",
    "cpu": "import os, sys, psutil, torch\ndevice, free = 'cpu', lambda: psutil.virtual_memory().available\n",
}

_FORK = """
torch.cuda.is_available()
reading, writing = os.pipe()
if os.fork() == 0:
    os.environ["CUDA_VISIBLE_DEVICES"] = sys.argv[1]
    try:
        found = str(torch.ones(8, 8, device=device).mm(torch.ones(8, 8, device=device)).sum().item())
    except BaseException as error:
        found = repr(error)
    os.write(writing, found.encode())
    os._exit(0)
os.close(writing)
print(os.read(reading, 4096).decode())
os.wait()
"""

_WORDS = """
def said(act):
    try:
        act()
    except RuntimeError as error:
        return str(error)
torch.use_deterministic_algorithms(True)
x = torch.ones(1, 3, 8, 8, device=device, requires_grad=True)
m = torch.ones(8, 8, device=device)
print(said(lambda: m.mm(m)))
print(said(lambda: torch.nn.functional.adaptive_avg_pool2d(x, 2).sum().backward()))
"""


def environment(check: Check) -> None:
    """What is there; a process that has seen no GPU forks one that uses it; what PyTorch says of operations."""
    found = build()
    check.tell(
        gpus=[str(gpu) for gpu in gpus()], links=links(), torch=torch.__version__, cuda=found.cuda, nccl=found.nccl,
        cudnn=torch.backends.cudnn.version(), python=platform.python_version(), kernel=platform.release(),
        cores=len(os.sched_getaffinity(0)), refused_calls=dict(gather().refused_calls),
    )  # fmt: skip
    uuid = next((gpu.uuid for gpu in gpus() if gpu.is_visible), "0")
    forked = check.said(_FORK, uuid, CUDA_VISIBLE_DEVICES="", PYTORCH_NVML_BASED_CUDA_CHECK="1")
    check.tell(forked=forked, words=check.said(_WORDS, CUBLAS_WORKSPACE_CONFIG=""))
    try:
        with check.held(made("pooled", 0, 64, 2)) as run:
            said = str(run(1).losses)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    named = check.stand_in or ("has no such algorithm" in said and "microbatch" not in said)
    check.tell(pooled=said, holds=forked == "512.0" and named)


def compared(ways: Mapping[str, Callable[[], tuple[str, list[float]]]]) -> dict[str, Any]:
    """Digests and the first step whose loss differs from that of the first way; a way that fails says how."""
    found: dict[str, Any] = {}
    expected: tuple[str, list[float]] | None = None
    for name, way in ways.items():
        try:
            given = way()
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
            traceback.print_exc()
            continue
        expected = expected or (given[0], given[1])
        differs = [
            step + 1 for step, (one, other) in enumerate(zip(given[1], expected[1], strict=True)) if one != other
        ]
        found[name] = {"digest": given[0], "last loss": given[1][-1], "first step that differs": (differs or [None])[0]}
    digests = {each["digest"] if isinstance(each, dict) else each for each in found.values()}
    return {**found, "holds": len(digests) == 1 and expected is not None}


def trained(run: Callable[..., Ran], workers: int, **more: Any) -> tuple[str, list[float]]:
    """Digest and losses of a run."""
    ran = run(workers, **more)
    return ran.digest, ran.losses


def bits(check: Check) -> None:
    """One digest for 1, 2 and 4 workers and for the plain loop, the CPU's debug too where the CPU is the device."""
    held = {}
    for name, job in check.jobs().items():
        with check.held(job) as run:
            ways: dict[str, Any] = {f"workers={n}": partial(trained, run, n) for n in check.sizes.worlds}
            ways["plain loop"] = partial(check.contender, "plain loop", name)
            if check.stand_in:
                ways["debug"] = partial(trained, run, 1, debug=True)
            found = compared(ways)
        held[name] = found["holds"]
        check.tell(**{name: found}, holds=all(held.values()))


_FILLED = """
held = [torch.empty(max(0, free() - int(sys.argv[1])), dtype=torch.uint8, device=device)] if device == "cuda" else []
print("ready", flush=True)
sys.stdin.read()
"""


def filled(check: Check) -> None:
    """The same digests while another process holds most of the memory."""
    held = {}
    known = results(check.out).get("parts", {}).get("bits", {})

    def squeezed(run: Callable[..., Ran], workers: int) -> tuple[str, list[float]]:
        with check.beside(_FILLED, str(workers * HEADROOM)):
            return trained(run, workers)

    for name, job in check.jobs().items():
        with check.held(job) as run:
            few_and_many = check.sizes.worlds[0], check.sizes.worlds[-1]
            found = compared({f"workers={n}": partial(squeezed, run, n) for n in few_and_many})
        found["as with free memory"] = found["workers=1"] == known[name]["workers=1"] if name in known else None
        held[name] = found["holds"] and found["as with free memory"] is not False
        check.tell(**{name: found}, holds=all(held.values()))


def kills(check: Check) -> None:
    """kill -9 of one of two workers, five times, and of the only one: digest and records of an undisturbed run."""
    with check.held(check.jobs()["cnn"]) as run:
        undisturbed, held = run(1), []
        check.tell(undisturbed={"digest": undisturbed.digest, "seconds": undisturbed.seconds})
        for workers, places in KILLS:
            with tempfile.TemporaryDirectory() as folder:
                ran = run(workers, phase=Kill(folder, places))
                struck = len(list(Path(folder).iterdir()))
            found = {
                "kills": struck, "same digest": ran.digest == undisturbed.digest,
                "each record once": ran.losses == undisturbed.losses and ran.steps == undisturbed.steps,
                "seconds": ran.seconds, "messages": ran.messages[-8:],
            }  # fmt: skip
            held.append(struck == len(places) and found["same digest"] and found["each record once"])
            check.tell(**{f"of {workers}, {places}": found}, holds=all(held))


_WATCH = """
import select
first = lowest = free()
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0.002)[0]:
    lowest = min(lowest, free())
print(first - lowest)
"""

_CONTEXT = """
x = torch.ones(64, 64, device=device, requires_grad=True)
x.mm(x).sum().backward()
print(torch.cuda.memory_reserved() if device == "cuda" else 0)
"""


def taken(check: Check, work: Callable[[], Any]) -> tuple[int, Any]:
    """How much less memory is free at least while something works, and what it gives."""
    with check.beside(_WATCH) as watching:
        given = work()
        said, _ = watching.communicate("\n")
    return int(said), given


def memory(check: Check) -> None:
    """AdamW takes 12 bytes a parameter, 4 more for each partial sum, and what a process has on the device anyway."""
    layers, width = check.sizes.memory
    job = made("wide", width, 32, 4, layers, 2)
    parameters = sum(each.numel() for each in job.model().parameters())
    context, reserved = taken(check, lambda: int(check.said(_CONTEXT)))
    sums = 1 + max(step.buffer for step in fold(0, job.microbatches, job.microbatches).steps)
    formula = (12 + 4 * sums) * parameters + context - reserved
    check.tell(parameters=parameters, context=context - reserved, partial_sums=sums, formula=formula)
    with check.held(job) as run:
        found, _ = taken(check, lambda: run(1))
    check.tell(
        taken=found, ratio=round(found / max(1, formula), 3), wanted=WANTED["memory"],
        bytes_a_parameter=round((found - context + reserved) / parameters, 1),
    )  # fmt: skip


def speed(check: Check) -> None:
    """Medians of step times: one worker, plain loops with and without its flags, and DDP with one process."""
    for name in ("cnn", "transformer"):
        with check.held(check.timed_job(name)) as run:
            records = run(1).records
        seconds = {"unisono": [record["step_seconds"] for record in records if "step_seconds" in record]}
        seconds |= {kind: check.contender(kind, name) for kind in ("flags", "plain", "ddp")}
        medians = {kind: statistics.median(each[len(each) // 4 :]) for kind, each in seconds.items()}
        check.tell(**{name: {
            "milliseconds": {kind: round(1000 * each, 3) for kind, each in medians.items()},
            "unisono / flags": round(medians["unisono"] / medians["flags"], 3), "wanted": WANTED["speed"],
        }})  # fmt: skip


def contend(kind: str, name: str, check: Check) -> None:
    """Print what a loop without Unisono gives: digest and losses, or its step times."""
    if check.stand_in:
        torch.set_num_threads(1)
    elif kind in ("plain loop", "flags"):
        flags()
    if kind == "plain loop":
        print(json.dumps(plain(check.jobs()[name], check.device)))
    else:
        print(json.dumps(timed(check.timed_job(name), check.device, kind)))


def write_for_ever(values: Tensor, host: Tensor) -> None:
    """Count up on the device, and leave the count in host memory that other processes see."""
    if values.is_cuda:
        cudart: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        torch.cuda.check_error(int(cudart.cudaHostRegister(host.data_ptr(), host.nbytes, 0)))
    while True:
        for _ in range(QUEUED):
            values.add_(1)
            host.copy_(values[: len(host)], non_blocking=True)


def late(check: Check) -> None:
    """Whether what a process has queued still reaches memory after the kernel has called it dead."""
    elements, tries = check.sizes.late
    found = []
    for _ in range(tries):
        values, host = torch.zeros(elements, device=check.device), torch.zeros(8).share_memory_()
        if check.stand_in:
            values.share_memory_()
        child = torch.multiprocessing.get_context("spawn").Process(target=write_for_ever, args=(values, host))
        child.start()
        while host[0] < QUEUED and child.is_alive():
            time.sleep(0.01)
        dead = os.pidfd_open(child.pid or 0)
        os.kill(child.pid or 0, signal.SIGKILL)
        select.select([dead], [], [])
        at_death, on_device = host[0].item(), values[0].item()
        time.sleep(0.5)
        found.append({"host": host[0].item() - at_death, "device": values[0].item() - on_device, "count": at_death})
        child.join()
        os.close(dead)
        check.tell(writes_after_death=found)


@dataclass(frozen=True)
class Part:
    """A part, and for how many seconds it may go on."""

    work: Callable[[Check], None]
    seconds: int


PARTS = {
    "environment": Part(environment, 60), "bits": Part(bits, 140), "filled": Part(filled, 110),
    "kills": Part(kills, 120), "memory": Part(memory, 60), "speed": Part(speed, 110), "late": Part(late, 60),
}  # fmt: skip


# -- the file, and the parts one after another -----------------------------------------------------------------------


def results(out: Path) -> dict[str, Any]:
    """What is known so far."""
    found: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    return found


def keep(out: Path, part: str, found: Mapping[str, Any]) -> None:
    """Add to what is known of a part; whoever looks at the file sees it whole."""
    known = results(out)
    known.setdefault("parts", {}).setdefault(part, {}).update(found)
    written(out, known)


def written(out: Path, known: Mapping[str, Any]) -> None:
    """Write the file anew."""
    beside = out.with_name(out.name + ".new")
    beside.write_text(json.dumps(known, indent=1) + "\n")
    beside.replace(out)


def begun(name: str, out: Path, stand_in: bool, seconds: float | None) -> bool:
    """Have a part done by a process of its own, and what it has started ended with it; returns whether all is well."""
    if seconds is not None and seconds < LEAST_SECONDS:
        keep(out, name, {"ended": "left out: no time was left"})
        return False
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command(out, stand_in, "--part", name), stderr=errors, start_new_session=True)
        try:
            status = process.wait(seconds)
            ended = "done" if status == 0 else f"failed, status {status}"
        except subprocess.TimeoutExpired:
            ended = f"ended after its {seconds:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        errors.seek(0)
        lines = errors.read().splitlines()
    about: dict[str, Any] = {"ended": ended, "seconds": round(time.monotonic() - started, 1)}
    keep(out, name, {**about, **({"errors": lines[-40:]} if lines else {})})
    print(f"{name}: {ended}, {about['seconds']} s", flush=True)
    return ended == "done" and bool(results(out)["parts"][name].get("holds", True))


def has_gpu() -> bool:
    """Whether the driver's program or PyTorch, in a process apart, sees one."""
    asked = "import torch; print(torch.cuda.device_count())"
    said = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=False).stdout.strip()
    return any(gpu.is_visible for gpu in gpus()) or said not in ("", "0")


def main() -> int:
    """Do the parts one after another; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--only", help="some parts, with commas between them")
    for hidden in ("--part", "--contender", "--job"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--stand-in", action="store_true", help="for tests: the CPU as a device, tiny models")
    asked = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(SOURCE), os.environ.get("PYTHONPATH")]))
    check = Check(asked.out.absolute(), asked.part or "", asked.stand_in)
    if asked.contender:
        contend(asked.contender, asked.job, check)
        return 0
    if asked.part:
        PARTS[asked.part].work(check)
        return 0
    if not asked.stand_in and not has_gpu():
        print("no GPU here")
        return 0
    chosen = asked.only.split(",") if asked.only else list(PARTS)
    settings = {"at": time.strftime("%Y-%m-%d"), "device": check.device, "sizes": repr(check.sizes)}
    written(check.out, {"settings": settings, "parts": {}})
    ends = time.monotonic() + LIMIT_SECONDS
    well = []
    for name in chosen:
        left = None if asked.stand_in else min(PARTS[name].seconds, ends - time.monotonic())
        well.append(begun(name, check.out, asked.stand_in, left))
    return 0 if all(well) else 1


if __name__ == "__main__":
    sys.exit(main())
