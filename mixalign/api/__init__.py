"""For Python, beside the parts themselves: the result of a run, and scores of frozen models for own scripts."""
