"""Horovod's interface for scripts written for it, with one rank: `unisono.horovod.torch`."""
