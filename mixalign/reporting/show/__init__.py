"""What a reader sees: tables, text for a terminal, and one self-contained page from a template and its style."""
