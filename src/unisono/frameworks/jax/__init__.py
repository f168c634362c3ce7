"""JAX: flax modules and plain functions with optax, compiled once per shape, on shared memory."""
