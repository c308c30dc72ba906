"""The stage ``data``: the model to fine-tune, and the rows."""
