"""Models: fetched or made once, loaded with checks, fine-tuned so that training can resume."""

import sys

from transformers.utils import logging

if not sys.stderr.isatty():
    logging.disable_progress_bar()
