"""Look at a finished or unfinished run: what it holds, whether it fits together, where it came from."""
