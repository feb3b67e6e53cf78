"""The verbs of the command line: one file each, with its arguments and what it does from top to bottom."""
