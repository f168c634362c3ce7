"""torch.distributed as a script finds it under `unisono run`: with one rank, whose DDP is the parallel call."""
