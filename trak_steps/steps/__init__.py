"""One module a step. A step reads its inputs, calls the mathematics, and writes its output."""
