"""Train the same recipe again on parts of the train set, and keep what became of the targets."""
