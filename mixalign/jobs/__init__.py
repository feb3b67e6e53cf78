"""A run's settings as objects: tasks, tables, tokenizer, objective, and a model that fits them."""
