"""Pictures of runs, as matplotlib figures that belong to no window and no global state: one subject a file."""
