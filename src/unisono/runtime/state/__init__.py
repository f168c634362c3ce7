"""The shared state of one host, seen through typed views."""
