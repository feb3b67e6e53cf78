"""Merges of models by their weights: the baseline that trains no generalist."""
