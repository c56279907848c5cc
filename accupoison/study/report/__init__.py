"""A study as one page: figures, tables, what was found, and where each number comes from."""
