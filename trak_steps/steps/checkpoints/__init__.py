"""The stage ``checkpoints``: fine-tuned here, or imported."""
