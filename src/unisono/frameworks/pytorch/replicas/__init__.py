"""PyTorch models with their optimizers that one process each owns, and what they exchange."""
