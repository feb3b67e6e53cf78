"""Finished runs side by side: `read` takes run folders in, `judge` compares them, `show` prints, draws and writes."""
