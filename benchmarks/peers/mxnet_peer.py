"""MXNet without Unisono: one process on one thread (plain) or two (threads), or two workers with a `dist_sync`
key-value store (dist_sync).

python mxnet_peer.py MODE CASE STEPS FILE; with DMLC_ROLE=server or scheduler the import itself serves until the end.
"""

from __future__ import annotations

import sys

import common

RANK, WORLD = common.pinned()

import mxnet  # noqa: E402  (after pinning)
from mxnet import autograd, gluon, nd  # noqa: E402
from mxnet_models import MODELS  # noqa: E402

MODE, CASE, STEPS = sys.argv[1], sys.argv[2], int(sys.argv[3])


def main() -> None:
    """Train and time."""
    name, batch = common.parsed(CASE)
    mxnet.random.seed(0)
    model = MODELS[name]()
    model.initialize(mxnet.init.Xavier())
    store = mxnet.kvstore.create("dist_sync") if MODE == "dist_sync" else None
    rank = store.rank if store else 0
    sgd = {"learning_rate": common.RATE, "momentum": common.MOMENTUM}
    trainer = gluon.Trainer(model.collect_params(), "sgd", sgd, kvstore=store)
    cross_entropy = gluon.loss.SoftmaxCrossEntropyLoss()
    batches = common.Batches(batch, rank, WORLD)

    def step(number: int) -> float:
        inputs, targets = batches(number)
        with autograd.record():
            loss = cross_entropy(model(nd.array(inputs)), nd.array(targets))
        loss.backward()
        trainer.step(batch)
        value = float(loss.mean().asscalar())
        nd.waitall()
        return value

    common.timed(step, STEPS, f"mxnet {mxnet.__version__}")


if __name__ == "__main__":
    main()
