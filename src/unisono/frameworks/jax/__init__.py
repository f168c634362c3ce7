"""JAX: flax modules and plain functions with optax, compiled once per shape, on shared memory."""

from unisono.frameworks.family import Family

FAMILY = Family(
    "jax",
    __name__,
    ("flax", "jax", "jaxlib"),
    "jax",
    compiled="JAX_COMPILATION_CACHE_DIR",
    preferred={
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    },
)
