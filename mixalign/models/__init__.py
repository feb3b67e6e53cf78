"""Models of transformers: loading, packed attention, scoring of completions, the head, live references."""
