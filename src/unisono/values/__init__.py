"""What people, files and networks give, checked before it is believed: numbers, text, JSON, durations."""
