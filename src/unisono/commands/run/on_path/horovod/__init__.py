"""Stands for Horovod under `unisono run`, whether it is installed or not."""
