"""Trained models for others: exported folders that every loader reads, the hub, and answers side by side."""
