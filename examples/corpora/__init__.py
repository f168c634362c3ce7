"""What the examples share: data sets downloaded once and checked; readers that name what is bad by file and line."""
