"""What this machine has, and later how to split work over it."""
