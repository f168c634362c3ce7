"""Shared memory of one host: areas in an anonymous segment, slot words, waiting."""
