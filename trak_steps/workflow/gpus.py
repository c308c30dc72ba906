"""A GPU of its own for each job, on a machine that has several.

Jobs choose for themselves, by locks that die with them, also those of other runs: a GPU that no job has,
or one that few have where more run at once than there are GPUs. A cluster gives its jobs their GPUs.
"""

import os
import tempfile
from itertools import count
from pathlib import Path

from trak_steps.console.progress import say
from trak_steps.store.lock import try_lock

# The GPUs that a process sees, by numbers or names; unset, all. Read when CUDA is first used.
VISIBLE = "CUDA_VISIBLE_DEVICES"
# Where the workflow tells its jobs that locks are.
VARIABLE = "TRAK_STEPS_GPU_LOCKS"


def let_jobs_choose(*, elsewhere: bool) -> None:
    """Tell this process's jobs to take a GPU each, unless other machines run them."""
    if elsewhere:
        os.environ.pop(VARIABLE, None)
    else:
        # What a cluster gave to this job alone is numbered anew, whatever others have.
        allocation = os.environ.get("SLURM_JOB_ID", "here")
        folder = Path(tempfile.gettempdir()) / f"trak-steps-{os.getuid()}" / f"gpus-{allocation}"
        os.environ[VARIABLE] = str(folder)


def take_gpu() -> None:
    """Let this process see a single GPU, which it has for as long as it lives.

    Before CUDA is used. Nothing is taken outside a workflow, or where there are not several.

    Raises:
        TrakError: if the folder of locks cannot be written to.
    """
    folder = os.environ.get(VARIABLE)
    names = visible_gpus() if folder else []
    if not folder or len(names) < 2:
        return
    taken = next(
        name
        for others in count()
        for name in names
        # Its descriptor stays open until the process ends.
        if try_lock(Path(folder) / f"{name.replace('/', '-')}.{others}") is not None
    )
    os.environ[VISIBLE] = taken
    say(f"GPU {taken} of {', '.join(names)}")


def visible_gpus() -> list[str]:
    """The GPUs that this process sees, as :data:`VISIBLE` names them."""
    given = os.environ.get(VISIBLE)
    if given is not None:
        return [name for each in given.split(",") if (name := each.strip())]
    # Steps import it in any case. It asks the driver's library, and CUDA reads the variable later.
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]
