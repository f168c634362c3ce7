"""TensorFlow without Unisono: one process on one thread (plain) or two (threads), MirroredStrategy over two logical
devices (mirrored), or MultiWorkerMirroredStrategy over two processes (multiworker; a loop of its own, because Keras 3's
`fit` fails under it).

python tensorflow_peer.py MODE CASE STEPS FILE
"""

from __future__ import annotations

import sys
from typing import Any

import common

RANK, WORLD = common.pinned()

import keras  # noqa: E402  (after pinning: pools are as large as the cores)
import tensorflow as tf  # noqa: E402
from keras_models import MODELS  # noqa: E402

MODE, CASE, STEPS = sys.argv[1], sys.argv[2], int(sys.argv[3])


def strategy() -> Any:
    """How the batch is spread."""
    tf.config.threading.set_intra_op_parallelism_threads(2 if MODE == "threads" else 1)
    tf.config.threading.set_inter_op_parallelism_threads(1 if MODE == "plain" else 2)
    if MODE == "mirrored":
        (cpu,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    return tf.distribute.MultiWorkerMirroredStrategy() if MODE == "multiworker" else tf.distribute.get_strategy()


def main() -> None:
    """Train and time."""
    spread = strategy()
    name, batch = common.parsed(CASE)
    keras.utils.set_random_seed(0)
    with spread.scope():
        model = MODELS[name]()
        optimizer = keras.optimizers.SGD(common.RATE, momentum=common.MOMENTUM)
        optimizer.build(model.trainable_variables)
    per_sample = keras.losses.sparse_categorical_crossentropy

    def replica_step(inputs: Any, targets: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(per_sample(targets, model(inputs, training=True), from_logits=True)) / batch
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    @tf.function
    def train_step(inputs: Any, targets: Any) -> Any:
        losses = spread.run(replica_step, args=(inputs, targets))
        return tf.add_n(spread.experimental_local_results(losses))

    replicas = 2 if MODE == "mirrored" else 1
    batches = common.Batches(batch, RANK, WORLD)

    def split(array: Any) -> Any:
        share = len(array) // replicas
        if MODE in ("plain", "threads"):
            return tf.convert_to_tensor(array)
        return spread.experimental_distribute_values_from_function(
            lambda context: tf.convert_to_tensor(array[context.replica_id_in_sync_group % replicas * share :][:share])
        )

    def step(number: int) -> float:
        inputs, targets = batches(number)
        return float(train_step(split(inputs), split(targets)))

    common.timed(step, STEPS, f"tensorflow {tf.__version__}, keras {keras.__version__}")


if __name__ == "__main__":
    main()
