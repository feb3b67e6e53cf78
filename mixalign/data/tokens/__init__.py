"""Examples to token rows, in parallel and kept in a cache."""
