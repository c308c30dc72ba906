# What the rules share: the run's settings and paths, and what makes a rule run again.

import json
from pathlib import Path

from snakemake.exceptions import WorkflowError

from trak_steps.config import arguments, parse_settings
from trak_steps.errors import TrakError
from trak_steps.fingerprint import fingerprint, foreign_fingerprint
from trak_steps.inputs import local_files, local_model
from trak_steps.layout import Layout, checkpoint_names, shard_names, state_name
from trak_steps.steps.registry import STEPS, hand_to_jobs, reads

try:
    settings = parse_settings(config)
except TrakError as error:
    raise WorkflowError(str(error))

run = Layout(Path("results") / settings.run)
CHECKPOINTS = checkpoint_names(settings.checkpoints)
TARGETS = list(settings.targets)

GPU = 1 if settings.execution.device.startswith("cuda") else 0

BASE_MODEL = (settings.checkpoints.existing or [settings.model.name_or_path])[0]

# A person's own model output is code too: a change to its module reruns the features.
MODEL_OUTPUT = foreign_fingerprint(settings.features.model_output.partition(":")[0])


# Where and how to compute goes to the jobs beside their params, so that a change reruns nothing.
hand_to_jobs(settings)


wildcard_constraints:
    checkpoint=r"\d+(-[0-9.e-]+)?",
    run=r"\d+",
    shard=r"\d{5}",
    targets=r"[A-Za-z0-9][A-Za-z0-9_-]*",


def memory(wildcards, attempt):
    """MB of a job that computes: what it may use for arrays, and libraries, model and Snakemake.

    A retry after a job was killed for its memory gets more.
    """
    return settings.execution.memory_mb + 2000 * attempt


def step(name):
    """Params of a rule: the settings that its step reads, and a digest of the step's code."""
    return {
        "settings": lambda wildcards: arguments(
            settings, reads(name, settings, targets=wildcards.get("targets", ""))
        ),
        "code": fingerprint(f"steps.{STEPS[name].module}"),
    }


def prepared_rows(folder):
    """How many rows a prepared folder holds."""
    return json.loads((Path(folder) / "manifest.json").read_text())["details"]["rows"]


def shards(wildcards):
    """The names of the train set's shards; asks for the prepared rows if no number is set."""
    n = settings.dataset.train_size
    if n is None:
        n = prepared_rows(checkpoints.prepare.get().output[0])
    return shard_names(n, settings.features.shard_size)


def train_shards(wildcards):
    """All shards of a checkpoint's train features."""
    return [run.train_shard(wildcards.checkpoint, shard) for shard in shards(wildcards)]


def log_of(name):
    """A job's log, beside the run's results."""
    return str(run.root / "logs" / f"{name}.log")


def time_of(name):
    """Where a job's time and memory are recorded."""
    return str(run.root / "benchmarks" / f"{name}.tsv")
