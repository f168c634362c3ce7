"""One host at work: rounds, workers, loaders, the warm parent and the supervisor."""
