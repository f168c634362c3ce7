"""XLA's threads, which are held before its CPU client starts; for JAX's own jobs and for Keras's on JAX."""

from __future__ import annotations

import os

import jax

HELD = "NPROC"
"""XLA sizes its pools of threads by this environment variable when its CPU client starts."""

FLAG = "--xla_cpu_multi_thread_eigen"


def hold(threads: int) -> None:
    """Let the client that starts hold to this number of threads, and keep what it compiles where a run wants it."""
    os.environ[HELD] = str(threads)
    others = [word for word in os.environ.get("XLA_FLAGS", "").split() if not word.startswith(FLAG)]
    os.environ["XLA_FLAGS"] = " ".join([*others, f"{FLAG}={'true' if threads > 1 else 'false'}"])
    if jax.config.jax_compilation_cache_dir is None:  # what the environment says is read at import only
        jax.config.update("jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR"))


def started() -> bool:
    """Whether the client has started: JAX tells by refusing another number of devices from then on."""
    devices = jax.config.jax_num_cpu_devices
    try:
        jax.config.update("jax_num_cpu_devices", devices + 1)
    except RuntimeError:
        return True
    jax.config.update("jax_num_cpu_devices", devices)
    return False
