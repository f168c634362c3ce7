"""MXNet (retired upstream in 2023): gluon blocks and MXNet's optimizers over arrays that lie in shared memory."""
