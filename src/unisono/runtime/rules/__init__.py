"""The pure rules of a run: rounds, plans, who does what next, who replaces whom. No I/O, no shared memory."""
