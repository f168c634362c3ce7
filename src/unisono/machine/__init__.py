"""What this machine is: its system, cores, memory and accelerators."""
