"""PyTorch: modules and optimizers whose parameters are views of shared memory."""
