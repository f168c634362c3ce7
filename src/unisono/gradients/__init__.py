"""Gradients: the tree sum, blocks and slices, norms. Pure arithmetic."""
