"""Keras 3 models on TensorFlow, JAX or PyTorch, and `tf.Module`s: pure functions over shared memory."""

import sys

from unisono.frameworks.family import Family

FAMILY = Family(
    "keras",
    __name__,
    ("keras", "tensorflow"),
    "tensorflow",
    model_file="model.keras",
    preferred={"TF_CPP_MIN_LOG_LEVEL": "1"},  # no lines about instruction sets
    drawing={  # Keras has its backend's, which is seeded once Keras is whole
        "keras": lambda: bool(sys.modules["keras"].backend.backend() == "tensorflow"),
        "tensorflow": lambda: "keras" not in sys.modules,
    },
)
