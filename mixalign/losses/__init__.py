"""Losses per sample as pure maths: preference, supervised and excess losses, log-probabilities, curvature."""
