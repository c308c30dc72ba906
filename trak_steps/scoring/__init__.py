"""From features and kernels to scores, and from scores to the top of each target."""
