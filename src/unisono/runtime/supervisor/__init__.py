"""The process that owns a run: it watches, decides and recovers."""
