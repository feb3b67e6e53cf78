"""Rows to batches: reading, tokenising, drawing by the mixture."""
