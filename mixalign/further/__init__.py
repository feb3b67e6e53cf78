"""Any model on rows that it never saw, and on tasks of lm-evaluation-harness; where the numbers go."""
