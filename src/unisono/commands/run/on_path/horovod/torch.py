"""`import horovod.torch as hvd` under `unisono run`."""

import sys

import unisono.horovod.torch

sys.modules[__name__] = unisono.horovod.torch
