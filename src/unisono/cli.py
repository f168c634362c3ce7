"""Commands to calls, nothing else. Each imports what it calls: `--help` waits for none of it."""

from __future__ import annotations

import os
import sys
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any, TextIO, cast

import click

from unisono.commands.begun import arguments_of, begun
from unisono.commands.exit_status import status_of
from unisono.commands.options import FOLDER, SeveralLayouts, options
from unisono.commands.run.run import Script
from unisono.errors import UnisonoError, UsageError
from unisono.observe.stream import Stream, complain, leave
from unisono.settings import Ray, Settings
from unisono.values import bounds
from unisono.values.text import excerpt
from unisono.version import __version__

WORKERS, STEPS, ROUNDS = bounds.MOST_WORKERS, bounds.MOST_ROUNDS, 1000


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def commands() -> None:
    """Train deep-learning models on many workers, with the same bits on any number of them."""


@commands.command()
@click.argument("file")
@click.argument("arguments", nargs=-1)
@click.option("--epochs", type=int, help="Replaces the job's length.")
@click.option("--steps", type=int, help="Replaces the job's length.")
@click.option("--seed", type=int, help="Replaces the job's seed.")
@options()
@click.option("--on", type=click.Choice(["ray"]), help="Train on a Ray cluster.")
def train(
    file: str, arguments: tuple[str, ...], epochs: int | None, steps: int | None, seed: int | None, on: str | None,
    **given: Any,
) -> int:  # fmt: skip
    """Train the job of FILE.py[:NAME] with key=value ARGUMENTS.

    Exit status: 0 the run is finished; above 128 it was interrupted (also by --max-time), and the same command with
    --out and --resume auto goes on; 1 it failed; 2 something was refused.
    """
    if epochs is not None and steps is not None:
        raise UsageError(f"a run has one length; received --epochs {epochs} and --steps {steps}. Give one.")
    changed = {} if epochs is None and steps is None else {"epochs": epochs, "steps": steps}
    changed = changed if seed is None else {**changed, "seed": seed}
    cluster = _cluster(on, **{each.name: given.pop(each.name) for each in fields(Ray)})
    settings = Settings(on=cluster, **given)
    earlier = settings.resume if isinstance(settings.resume, Path) else None  # auto: the command says all, everywhere
    try:
        job, host = begun(file, arguments, earlier, changed, starts=not settings.debug and cluster is None)
    except UnisonoError as error:
        from unisono import api

        api.refuse(error, settings)
    from unisono import api
    from unisono.observe.progress import quiet
    from unisono.observe.run_folder import HOSTS
    from unisono.runtime.processes.start import POOLS

    if settings.debug:  # the job's objects may compute when they are made, here
        os.environ.update(dict.fromkeys(POOLS, str(settings.threads)))
    run = api.run(job, replace(settings, name=job.path.stem), host)
    manifest = run.manifest
    first = manifest.get("first_step_seconds")
    start_up = "" if first is None else f" (the first after {first:.1f} s)"
    took = f"{manifest['seconds']:.1f} s{start_up}"
    whose = f"[{run.directory.name}] " if run.directory.parent.name == HOSTS else ""  # a host beside the first one
    with quiet() as shown:
        shown.message(f"{whose}{run.status} after {manifest['steps_done']} steps in {took}: {run.directory}")
        if run.status != "left":
            shown.message(f"{whose}parameters {manifest.get('parameters_sha256', 'not kept')}")
    return run.exit_status


def _cluster(on: str | None, **settings: Any) -> Ray | None:
    """What `--on ray` and its options say."""
    if on is not None:
        return Ray(**settings)
    for name, value in settings.items():
        if value is not None:
            raise UsageError(
                f"--{name.replace('_', '-')} is for --on ray; received {excerpt(value)} without it. Add --on ray."
            )
    return None


@commands.command(cls=Script)
@click.argument("script")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.option("--workers", type=click.IntRange(0, WORKERS), help="Processes that compute; 0: the script.")
@click.option("--microbatches", type=click.IntRange(1, bounds.MOST_MICROBATCHES), help="Of a call. [default: 8]")
def run(script: str, arguments: tuple[str, ...], workers: int | None, microbatches: int | None) -> int:
    """Run a SCRIPT with a training loop of its own, and its ARGUMENTS, as `python SCRIPT ARGUMENTS` would.

    It is the only rank of torch.distributed, and DDP's class is `unisono.parallel`. Options stand before it, or right
    behind it; what follows them, or --, is its own.
    """
    from unisono.commands.run.run import run as become

    become(script, arguments, workers, microbatches)


@commands.command(cls=SeveralLayouts)
@click.argument("file")
@click.argument("arguments", nargs=-1)
@click.option("--workers", metavar="LIST", help="World sizes to compare. [default: 1,2,3,4]")
@click.option("--layouts", default="", metavar="LAYOUT…", help="Layouts to compare: data=2 pipeline=2 …")
@click.option("--steps", type=click.IntRange(1, STEPS), help="Steps at each. [default: 20]")
@click.option("--calls", type=click.IntRange(1, STEPS), help="FILE is a script: compare its first backward passes.")
@options("device")
def verify(
    file: str, arguments: tuple[str, ...], workers: str | None, layouts: str, steps: int | None, calls: int | None,
    device: str,
) -> int:  # fmt: skip
    """Train the first steps at each world size, or in each layout, and compare the parameters' bits.

    With --calls N, FILE is a script with a loop of its own (its arguments stand behind --): N backward passes through
    `unisono.parallel` give the same parameters and gradients on 0, 1, 2 and 3 workers, and with killed ones.
    """
    if calls is not None:
        if workers or layouts or steps or device == "cuda":
            raise UsageError(
                "verify --calls compares a script on 0, 1, 2 and 3 workers, which compute on CPUs; --workers, "
                "--layouts, --steps and --device cuda are for a job. Leave them out; a script's own arguments stand "
                "behind --."
            )
        from unisono.commands.verify.script import verify_script

        found = verify_script(file, arguments, calls)
        _print(found.render())
        return 0 if found.agree else 1
    job, host = begun(file, arguments)
    from unisono import api
    from unisono.commands.verify.verify import verify as verified

    worlds = api.worlds(workers or "1,2,3,4")
    report = verified(job, worlds, steps or 20, lambda text: None, layouts.split(), host, device)
    _print(report.render())
    return 0 if report.agree else 1


@commands.command()
@click.argument("file")
@click.argument("arguments", nargs=-1)
@options("workers", "threads")
@click.option("--pipeline", type=click.IntRange(1, WORKERS), default=1, show_default=True, help="Stages of a pipe.")
def partition(file: str, arguments: tuple[str, ...], workers: int | None, threads: int, pipeline: int) -> int:
    """Show what each worker gets of the data and of the model."""
    from unisono.commands import partition as partitioning
    from unisono.runs.jobfile import load
    from unisono.runtime.processes.start import POOLS

    os.environ.update(dict.fromkeys(POOLS, str(bounds.threads(threads))))  # the model computes here, and is measured
    report = partitioning.partition(load(file, arguments).job, workers, pipeline, threads)
    _print(report.render())
    return 0 if report.sound else 1


@commands.command()
@click.argument("files", nargs=-1, required=True)
@click.option("--python", "pythons", multiple=True, metavar="FILE=PATH", help="Interpreter of a job; repeat it.")
@click.option("--backends", metavar="LIST", help="One Keras job over its backends: tensorflow,jax,torch.")
@click.option("--workers", metavar="LIST", help="World sizes. [default: 1,2,4 … the physical cores]")
@click.option("--steps", type=click.IntRange(2, STEPS), default=30, show_default=True, help="Steps of each run.")
@click.option("--rounds", type=click.IntRange(1, ROUNDS), default=3, show_default=True, help="Timed runs of each.")
def compare(
    files: tuple[str, ...], pythons: tuple[str, ...], backends: str | None, workers: str | None, steps: int, rounds: int
) -> int:
    """Which job of FILE.py[:NAME]… trains fastest here? They run in turn on equal terms."""
    from unisono import api
    from unisono.commands.compare import compare as compare_jobs

    counts = None if workers is None else api.worlds(workers)
    found = compare_jobs(files, pythons, backends, counts, steps, rounds, complain)
    _print(found.render(), markup=False, highlight=False)
    return found.exit_status


@commands.command()
@click.argument("file")
@click.argument("run_dir", type=FOLDER)
@click.argument("arguments", nargs=-1)
@options("workers", "threads", "device")
@click.option("--at", default="final", show_default=True, help="final, best, or the step of a checkpoint.")
def evaluate(
    file: str, run_dir: Path, arguments: tuple[str, ...], workers: int | None, threads: int, device: str, at: str
) -> int:
    """Evaluate the parameters of RUN_DIR on the job's evaluation data."""
    job, host = begun(file, arguments, run_dir)
    from unisono import api

    values = api.evaluate(job, run_dir, workers=workers, threads=threads, device=device, at=at, host=host)
    for name, value in values.items():
        print(f"{name} {value:.6g}", file=_output())
    return int(_output().has_failed)


@commands.command()
@click.argument("file")
@click.argument("run_dir", type=FOLDER)
@click.argument("inputs", nargs=-1, required=True)
@click.option("--at", default="final", show_default=True, help="final, best, or the step of a checkpoint.")
def predict(file: str, run_dir: Path, inputs: tuple[str, ...], at: str) -> int:
    """Print the answers of RUN_DIR's model to INPUTS (what they are, the job's infer says), a line each.

    Write -- before inputs that begin with a dash.
    """
    from unisono import api
    from unisono.runs.jobfile import load

    for answer in api.open(run_dir, load(file, (), arguments_of(run_dir)).job).infer(inputs, at):
        print(answer, file=_output())
    return int(_output().has_failed)


@commands.command()
@click.argument("run_dir", type=FOLDER)
@click.argument("workers", type=int)
def resize(run_dir: Path, workers: int) -> int:
    """Give the running run of RUN_DIR another number of WORKERS; 0 pauses it."""
    from unisono.runtime.supervisor import control_socket as control

    granted = control.resize(run_dir, workers)
    text = f"{granted} workers" if granted else "paused; resize it again to go on"
    print(f"{run_dir}: {text}", file=_output())
    return 0


@commands.command()
@click.argument("where", metavar="HOST:PORT")
@click.option("--interface", metavar="NAME", help="Network interface to listen on. [default: HOST's]")
def store(where: str, interface: str | None) -> int:
    """Serve the store where hosts meet (train --store HOST:PORT): a run outlives each of them."""
    from unisono.hosts import named_store
    from unisono.observe.progress import quiet

    named_store.serve(where, interface, quiet().message)
    return 0


@commands.command()
def devices() -> int:
    """Show this host's cores, CPU, memory and GPUs, and what torch and NCCL are there."""
    from unisono.commands import doctor as examination

    print(examination.rendered(examination.devices()), file=_output())
    return 0


@commands.command()
def doctor() -> int:
    """Show what a run would find here, what is wrong and how to mend it; exit status 1 if a run would not start."""
    from unisono.commands import doctor as examination

    findings = examination.examine()
    print(examination.rendered(findings), examination.summary(findings), sep="\n\n", file=_output())
    return int(any(finding.state == "wrong" for finding in findings))


@cache
def _output() -> Stream:
    """Where answers are printed."""
    return Stream(sys.stdout, lambda text: complain(f"unisono: {text}"))


def _print(shown: Any, **options: Any) -> None:
    from rich.console import Console

    Console(file=cast(TextIO, _output()), soft_wrap=True).print(shown, **options)


def main() -> None:
    """The command `unisono`: exit status 0 done, 1 the job failed, 2 wrong use, 128 + signal interrupted."""
    leave(status_of(lambda: commands.main(standalone_mode=False)))
