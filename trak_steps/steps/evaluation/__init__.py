"""The stage ``evaluation``: whether the scores can be trusted."""
