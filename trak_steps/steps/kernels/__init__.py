"""The stage ``kernels``: K of each checkpoint."""
