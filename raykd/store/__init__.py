"""What is on disk: the schema of every file below a results folder."""
