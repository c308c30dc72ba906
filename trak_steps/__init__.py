"""TRAK for text classifiers as a pipeline of steps that run alone or under Snakemake."""

__version__ = "0.2.0"
