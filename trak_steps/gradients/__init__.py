"""Per-sample gradients of the model output, by exchangeable sources (see ``source``)."""
