"""Environment variables that act on a run; pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from unisono.machine.finding import Finding

BINDS = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")
"""With them OpenMP binds a process to a core as soon as it is loaded, and all that it forks."""

ARITHMETIC = (
    "ATEN_CPU_CAPABILITY", "DNNL_MAX_CPU_ISA", "ONEDNN_MAX_CPU_ISA", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS",
    "OPENBLAS_CORETYPE", "JAX_DEFAULT_MATMUL_PRECISION", "JAX_ENABLE_X64", "TF_ENABLE_ONEDNN_OPTS", "XLA_FLAGS",
)  # fmt: skip
"""With them frameworks compute with other instructions, precisions or algorithms: other bits."""

MEMORY = ("LD_PRELOAD", "GLIBC_TUNABLES")
"""With them memory is had in another way."""


def check_environment(environment: Mapping[str, str], settled: Collection[str]) -> list[Finding]:
    """What stands in the environment that acts on a run, or seems to.

    Args:
        environment: names and values.
        settled: names that a run sets itself.

    >>> [each.state for each in check_environment({"OMP_PLACES": "cores", "OMP_NUM_THREADS": "4"}, ["OMP_NUM_THREADS"])]
    ['ok', 'warning', 'ok', 'ok']
    """
    return [
        _threads(environment, settled),
        _set(
            "binding", environment, BINDS, "OpenMP puts all processes of a run on one core: unset them; Unisono gives "
            "each worker its cores."
        ),
        _set(
            "arithmetic", environment, ARITHMETIC, "They are part of the result: the same bits only where they are the "
            "same, on every host and when a run is resumed."
        ),
        _set(
            "allocation", environment, MEMORY, "Speed was measured without them (a run asks glibc for huge pages where "
            "GLIBC_TUNABLES is not set): unset them if steps are slow."
        ),
    ]  # fmt: skip


def _threads(environment: Mapping[str, str], settled: Collection[str]) -> Finding:
    there = _there(environment, settled)
    found = f"{there} without effect: train --threads says how many each worker has" if there else "nothing set"
    return Finding("threads", "ok", found)


def _set(name: str, environment: Mapping[str, str], names: Collection[str], mend: str) -> Finding:
    there = _there(environment, names)
    return Finding.of(name, not there, there or "nothing set", mend)


def _there(environment: Mapping[str, str], names: Collection[str]) -> str:
    return ", ".join(f"{each}={environment[each]}" for each in names if environment.get(each))
