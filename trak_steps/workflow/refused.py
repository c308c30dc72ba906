"""What steps of a workflow refused, so that Snakemake's retries compute nothing twice.

Snakemake (9.27) repeats every failed job as often as ``retries`` says, whatever the job ended with. A
step's refusal of its input stays a refusal: it is kept in the run's ``.refused``, and a repeated attempt
says it again at once. The workflow forgets it when it starts. What has a cause outside the step, such as
a full disk, may pass, and so is not kept; neither is anything of a step by hand.
"""

import hashlib
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from trak_steps.errors import TrakError

# Where the workflow tells its jobs to keep refusals.
VARIABLE = "TRAK_STEPS_REFUSED"


def refused_before(arguments: Sequence[str]) -> str | None:
    """What a step with the same arguments was refused with since the workflow started."""
    if file := _file(arguments):
        with suppress(OSError, UnicodeDecodeError):
            return file.read_text(encoding="utf-8")
    return None


def keep_refusal(arguments: Sequence[str], error: TrakError) -> None:
    """Keep a refusal for the next attempt."""
    file = _file(arguments)
    if file and error.__cause__ is None:
        with suppress(OSError):  # then the next attempt computes
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(str(error), encoding="utf-8")


def forget_refusals(folder: Path) -> None:
    """Before a workflow's first job."""
    shutil.rmtree(folder, ignore_errors=True)


def _file(arguments: Sequence[str]) -> Path | None:
    folder = os.environ.get(VARIABLE)
    name = hashlib.sha256("\0".join(arguments).encode(errors="surrogateescape")).hexdigest()[:32]
    return Path(folder) / name if folder else None
