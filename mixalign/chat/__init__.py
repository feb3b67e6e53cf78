"""Chat templates: ours by name, others from a file, and which of ours writes as a tokenizer's own does."""
