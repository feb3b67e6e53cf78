"""Figures of the page that a reader points at and chooses from, as data for plotly's script: one subject a file."""
