"""The smallest adapter: a framework's models on any number of workers, in a hundred lines."""

from unisono.frameworks.family import Family

FAMILY = Family("toy", __name__, ("toynet",), forks_after_computing=True)
