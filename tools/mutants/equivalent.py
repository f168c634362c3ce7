"""Mutants that no test can notice, because they do the same: (module, line before, line after, why)."""

STAGES, HOSTS = "partition/stages.py", "partition/hosts.py"
SPEED = "only speed: any spans give the same sums"

EQUIVALENT = [
    (STAGES, "found = {0: [_Split(0, 0, (0,))]}", "found = {0: [_Split(-1, 0, (0,))]}", "all splits begin with it"),
    (STAGES, "found = {0: [_Split(0, 0, (0,))]}", "found = {0: [_Split(1, 0, (0,))]}", "all splits begin with it"),
    (HOSTS, "MOST_ELEMENTS, LEAST_ELEMENTS = 1 << 20, 1 << 16", "MOST_ELEMENTS, LEAST_ELEMENTS = 1 << 21, 1 << 16", SPEED),
    (HOSTS, "MOST_ELEMENTS, LEAST_ELEMENTS = 1 << 20, 1 << 16", "MOST_ELEMENTS, LEAST_ELEMENTS = 1 << 19, 1 << 16", SPEED),
    (HOSTS, "MOST_ELEMENTS, LEAST_ELEMENTS = 1 << 20, 1 << 16", "MOST_ELEMENTS, LEAST_ELEMENTS = 1 << 20, 1 << 17", SPEED),
    (HOSTS, "MOST_ELEMENTS, LEAST_ELEMENTS = 1 << 20, 1 << 16", "MOST_ELEMENTS, LEAST_ELEMENTS = 1 << 20, 1 << 15", SPEED),
]
