"""The settings of a run: one model, loading with readable errors, and what each step may see."""

from trak_steps.config.load import load_settings, parse_settings
from trak_steps.config.settings import Settings
from trak_steps.config.view import arguments, restrict

__all__ = ["Settings", "arguments", "load_settings", "parse_settings", "restrict"]
