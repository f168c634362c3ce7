"""Samples read ahead of need."""
