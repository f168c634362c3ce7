"""A worker: the passes, partial sums and updates of its slots."""
