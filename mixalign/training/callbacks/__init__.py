"""What happens between steps: the mixture, probes, checks, logs, checkpoints, leaving and costs."""
