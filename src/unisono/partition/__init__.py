"""The data cut up: orders, batches, microbatches and plans. Pure values, no I/O."""
