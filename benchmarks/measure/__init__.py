"""What ``benchmarks/features.py`` measures, one module a question."""
