"""Many hosts: who they are, what they exchange, how they go on without one of them."""
