"""A digits job without Unisono, up to its first update, as a plain script would do it.

python benchmarks/peers/first_step.py torch|keras|jax FILE

FILE gets a line when the update is done.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def torch_step(job: Any, samples: Any) -> None:
    import torch
    from torch.utils.data import default_collate

    torch.manual_seed(job.seed)
    model = job.model()
    optimizer = job.optimizer(model)
    inputs, targets = default_collate(samples)
    job.loss(model(inputs), targets).backward()
    optimizer.step()


def keras_step(job: Any, samples: Any) -> None:
    import numpy as np

    model = job.model()
    model.compile(job.optimizer, job.loss)
    inputs, targets = (np.stack(column) for column in zip(*samples, strict=True))
    model.train_on_batch(inputs, targets)


def jax_step(job: Any, samples: Any) -> None:
    import jax
    import numpy as np
    from flax import nnx

    model = job.model()
    optimizer = nnx.Optimizer(model, job.optimizer, wrt=nnx.Param)
    inputs, targets = (np.stack(column) for column in zip(*samples, strict=True))

    @nnx.jit
    def step(model: Any, optimizer: Any) -> None:
        optimizer.update(model, nnx.grad(lambda model: job.loss(model(inputs), targets).mean())(model))

    step(model, optimizer)
    jax.block_until_ready(nnx.state(model))


def main(name: str, told: str) -> None:
    """Import, make, compute, update."""
    sys.path.insert(0, str(EXAMPLES))
    job = importlib.import_module(f"digits_{name}").job()
    data = job.data()
    {"torch": torch_step, "keras": keras_step, "jax": jax_step}[name](job, [data[n] for n in range(job.batch_size)])
    Path(told).write_text("done\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
