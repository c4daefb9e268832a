"""The command line: the parser, one module per group of commands, and what only commands need."""
