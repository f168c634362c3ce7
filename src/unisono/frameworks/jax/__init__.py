"""JAX: flax modules and plain functions with optax, compiled once per shape, over shared memory where the CPU allows."""
