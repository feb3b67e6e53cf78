"""One run folder from start to end: training, rounds, proxies, evaluation, resuming, checks and the summary."""
