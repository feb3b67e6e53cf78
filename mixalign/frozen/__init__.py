"""Models that no longer change, and their numbers, one a row: the reference policy, specialists, the baseline."""
