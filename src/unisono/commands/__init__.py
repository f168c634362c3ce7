"""One file or folder a command that is more than a call."""
