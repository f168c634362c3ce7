"""TensorFlow behind Keras: tensors over shared memory by DLPack, `tf.function`, `GradientTape`."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import random_seed  # see `seed`
from tensorflow.python.framework.ops import EagerTensor  # pickle looks a class up as it is, and tf.Tensor is its base

from unisono.errors import JobError
from unisono.frameworks.keras.backends import Backend, Function
from unisono.frameworks.keras.backends.graphs import Graphs, first_of
from unisono.frameworks.protocol import Array

THREADS = "TF_NUM_INTRAOP_THREADS"

UNKEYED = {
    "Multinomial", "ParameterizedTruncatedNormal", "RandomGamma", "RandomPoisson", "RandomPoissonV2", "RandomShuffle",
    "RandomStandardNormal", "RandomUniform", "RandomUniformInt", "RngReadAndSkip", "RngSkip", "StatefulRandomBinomial",
    "StatefulStandardNormal", "StatefulStandardNormalV2", "StatefulTruncatedNormal", "StatefulUniform",
    "StatefulUniformFullInt", "StatefulUniformInt", "TruncatedNormal",
}  # fmt: skip
"""Operations whose random state lives in the process: nothing can set it for a microbatch."""


_waiting: list[int] = []
_get_seed, _set_seed = random_seed.get_seed, tf.random.set_seed


def _stand(get_seed: Callable[[int | None], Any], set_seed: Callable[[int], None]) -> None:
    random_seed.get_seed, tf.random.set_seed = get_seed, set_seed


def _seed_and_get(op_seed: int | None) -> Any:
    if _waiting:
        _set_now(_waiting[0])
    return _get_seed(op_seed)


def _set_now(number: int) -> None:
    _waiting.clear()
    _stand(_get_seed, _set_seed)
    _set_seed(number)


class Here(Backend):
    """See `Backend`."""

    NAME = "TensorFlow"
    TENSORS = (EagerTensor,)
    NEUTRAL = ("assign", "assign_add", "assign_sub", "_var_key", "_apply_weight_decay", "_backend_update_step",
               "_clip_by_norm")  # fmt: skip
    tensor = staticmethod(tf.convert_to_tensor)

    def version(self) -> str:
        """See `Backend.version`."""
        one_dnn = os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1")
        return f"tensorflow {tf.__version__} (oneDNN {'off' if one_dnn == '0' else 'on'})"

    def pin(self, threads: int) -> None:
        """See `Backend.pin`."""
        with contextlib.suppress(RuntimeError):  # it has computed already; `warn_of_threads` says so where it matters
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(1)
            if threads > 1:
                tf.config.experimental.enable_op_determinism()

    def warn_of_threads(self) -> None:
        """See `Backend.warn_of_threads`."""
        if not tf.config.threading.get_intra_op_parallelism_threads() and THREADS not in os.environ:
            warnings.warn(
                "TensorFlow was at work in this process before Unisono could fix its threads, so it uses every core, "
                "and the last bits may differ from those that workers compute. Use `unisono train --debug`, or set "
                f"{THREADS}=1 and TF_NUM_INTEROP_THREADS=1 before Python starts.",
                stacklevel=2,
            )

    def seed(self, number: int) -> None:
        """See `Backend.seed`: kept until something draws, and few samples draw from TensorFlow.

        `tf.random.set_seed`, the one public way, throws compiled kernels away, which the next computation makes again:
        milliseconds for a graph. No public function says that something draws. So while a seed waits, and only then,
        other functions stand where every operation that draws asks for its seed, and where a job's own code may set
        another. A model's own operations that draw (`seed_eager`) are refused.
        """
        _waiting[:] = [number]
        _stand(_seed_and_get, _set_now)

    def alias(self, array: Array) -> Any:
        """See `Backend.alias`."""
        return tf.experimental.dlpack.from_dlpack(array.__dlpack__())

    def array(self, tensor: Any) -> Array:
        """See `Backend.array`."""
        return np.asarray(memoryview(tensor)) if isinstance(tensor, EagerTensor) else np.asarray(tensor)

    def compiled(self, function: Function) -> Function:
        """See `Backend.compiled`."""

        def traced(*arguments: Any) -> Any:
            result = function(*arguments)
            _refuse_unkeyed_randomness()
            return result

        return Graphs(traced)

    def with_gradients(self, function: Function, variables: Sequence[Any] = ()) -> Function:
        """See `Backend.with_gradients`."""

        def traced(parameters: list[Any], *rest: Any) -> Any:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(sources := list(variables) or parameters)
                total, result = function(parameters, *rest)
            _refuse_unkeyed_randomness()
            return result, tape.gradient(total, sources)

        return Graphs(traced)


def _refuse_unkeyed_randomness() -> None:
    found = first_of(tf.compat.v1.get_default_graph(), UNKEYED)
    if found is not None:
        raise JobError(
            "random numbers in a model must be a function of the step and the microbatch; "
            f"{found.name!r} is a {found.op}, whose state is the process's. Draw them with keras.random and a "
            "keras.random.SeedGenerator of the layer (keras.layers.Dropout does)."
        )
