"""Several processes that do one job: how they start and end, agree, lock what they make, and set up a trainer."""
