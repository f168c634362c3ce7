"""From a job to all that a process needs to work on it."""
