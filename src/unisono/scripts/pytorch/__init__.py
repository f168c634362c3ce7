"""The parallel call for PyTorch."""
