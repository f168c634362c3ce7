"""How processes are made, hold the job, talk, and end."""
