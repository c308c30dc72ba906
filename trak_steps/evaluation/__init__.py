"""Is the answer any good? Measures that need what the pipeline already has."""
