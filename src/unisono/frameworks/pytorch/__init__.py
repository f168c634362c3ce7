"""PyTorch: modules and optimizers whose parameters are views of shared memory."""

from unisono.frameworks.family import Family

FAMILY = Family(
    "pytorch",
    __name__,
    ("torch",),
    "torch",
    forks_after_computing=True,
    late=("torch._dynamo",),
    drawing={"torch": lambda: True},
)
