"""A script as `python` runs it, with what it finds in its processes (`on_path/`)."""
