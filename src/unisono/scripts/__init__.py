"""Scripts with loops of their own: calls that are cut into microbatches, computed by workers and joined."""
