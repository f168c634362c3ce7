"""JAX without Unisono: one process on one thread (plain) or two (threads), `jit` over two host devices
(devices), or two processes (processes).

python jax_peer.py MODE CASE STEPS FILE
"""

from __future__ import annotations

import os
import sys
from typing import Any

import common

RANK, WORLD = common.pinned()
MODE, CASE, STEPS = sys.argv[1], sys.argv[2], int(sys.argv[3])
FLAGS = [f"--xla_cpu_multi_thread_eigen={'true' if MODE == 'threads' else 'false'}"]
FLAGS += ["--xla_force_host_platform_device_count=2"] if MODE == "devices" else []
os.environ["XLA_FLAGS"] = " ".join(FLAGS)
os.environ["JAX_PLATFORMS"] = "cpu"

import jax  # noqa: E402  (after its settings)
import optax  # noqa: E402
from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: E402
from jax_models import MODELS, mean_loss  # noqa: E402


def main() -> None:
    """Train and time."""
    if MODE == "processes":
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(os.environ["COORDINATOR"], WORLD, RANK)
    mesh = Mesh(jax.devices(), ("data",))
    everywhere, by_sample = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    name, batch = common.parsed(CASE)
    first_values, forward = MODELS[name]
    transformation = optax.sgd(common.RATE, common.MOMENTUM)

    def begin() -> Any:
        parameters = first_values()
        return parameters, transformation.init(parameters)

    def train_step(parameters: Any, state: Any, inputs: Any, targets: Any) -> Any:
        loss, gradients = jax.value_and_grad(lambda held: mean_loss(forward(held, inputs), targets))(parameters)
        updates, state = transformation.update(gradients, state, parameters)
        return optax.apply_updates(parameters, updates), state, loss

    compiled = jax.jit(train_step, donate_argnums=(0, 1), out_shardings=(everywhere, everywhere, everywhere))
    held = jax.jit(begin, out_shardings=everywhere)()
    batches = common.Batches(batch, RANK, WORLD)

    def step(number: int) -> float:
        nonlocal held
        inputs, targets = (jax.make_array_from_process_local_data(by_sample, array) for array in batches(number))
        *held, loss = compiled(*held, inputs, targets)
        return float(loss)

    common.timed(step, STEPS, f"jax {jax.__version__}, optax {optax.__version__}")


if __name__ == "__main__":
    main()
