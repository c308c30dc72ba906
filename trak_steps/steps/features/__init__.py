"""The stage ``features``: per-sample gradients, projected."""
