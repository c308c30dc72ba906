"""The stage ``scores``: of all train rows for all targets, and the top of each."""
