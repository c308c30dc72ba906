"""The stage ``summary``: the run's figures, and what everything was made from."""
