"""The promise as a test: one job in each situation that must not change a bit, and beside the plain framework."""
