"""What make runs: installation, lock files, heartbeats, mutants."""
