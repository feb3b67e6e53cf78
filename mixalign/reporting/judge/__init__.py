"""What the runs say: statistics over seeds, the comparison with baselines, verdicts, costs and rounds."""
