"""What the Snakefile asks: which step reads which settings, local files, memory, locks."""
