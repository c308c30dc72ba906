"""The kernel of projected gradients and its use on the targets. Pure functions of arrays."""
