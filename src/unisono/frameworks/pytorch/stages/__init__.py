"""A PyTorch model cut into stages: recorded once, then replayed piece by piece."""
