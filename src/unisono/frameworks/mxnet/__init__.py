"""MXNet (retired upstream in 2023): gluon blocks and MXNet's optimizers over arrays that lie in shared memory."""

from unisono.frameworks.family import Family

FAMILY = Family(
    "mxnet",
    __name__,
    ("mxnet",),
    "mxnet",
    forks_after_computing=True,
    environment={"MXNET_ENGINE_TYPE": "NaiveEngine"},  # see engine.py
    drawing={"mxnet": lambda: True},
)
