"""What a run would do, before it does: shares, epochs and stages, and rows as they are learned; nothing is trained."""
