"""Names of what a validation gives beside the means of every task: what callbacks may watch."""

__all__ = ["SUMMARY", "SUMMARY_OF_EXCESS"]

SUMMARY = ("eval/mean_loss", "eval/worst_loss", "eval/worst_accuracy")
SUMMARY_OF_EXCESS = ("eval/worst_excess", "eval/worst_gap")  # where validation rows carry specialists' losses
