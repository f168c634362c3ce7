"""What a person sees: run folder, metrics, progress, logs."""
