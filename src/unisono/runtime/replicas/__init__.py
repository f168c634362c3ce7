"""Workers that own devices: each with a replica of the whole model, in generations."""
