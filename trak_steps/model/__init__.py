"""Models: fetched or made once, loaded with checks, fine-tuned so that training can resume."""
