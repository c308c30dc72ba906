"""What Slurm is asked before a workflow's first job goes there.

A Snakemake that is killed leaves its jobs in the queue. They share a name, which it draws when it starts
and this keeps in the run's ``.submitted``; by it, the next Snakemake on the run cancels what is left.
"""

import re
import socket
import subprocess
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from trak_steps.errors import TrakError
from trak_steps.store.lock import lives

# Seconds that Slurm is given to answer, and jobs to end. It kills one half a minute after it asks it.
ANSWER, END = 60, 90
# What Snakemake's log says of the jobs' name.
NAME = re.compile(r"^SLURM run ID: (\S+)$", re.MULTILINE)
WRONG = re.compile(r"Invalid (?:partition name|account) .*")


def check_place(partition: object, account: object) -> None:
    """Ask Slurm whether it takes jobs for a partition and an account; nothing is submitted.

    Args:
        partition: as a rule's ``slurm_partition``; none for Slurm's own choice.
        account: as a rule's ``slurm_account``, likewise. Of several, the first.

    Raises:
        TrakError: if there is no such partition, or the account may not use it.
    """
    asked = []
    if partition:
        asked += ["--partition", str(partition)]
    if account:
        asked += ["--account", re.split(r"[,\s]+", str(account).strip())[0]]
    if not asked:
        return
    answer = _ask(["sbatch", "--test-only", *asked, "--wrap", "true"])
    # A cluster may refuse this small job for other reasons, which do not hold for the real ones.
    refused = WRONG.search(answer.stderr)
    if answer.returncode == 0 or not refused:
        return
    known = sorted(set(_ask(["sinfo", "--noheader", "--format=%R"]).stdout.split()))
    raise TrakError(
        f"Slurm takes no jobs for {' '.join(asked)}: {refused[0]}; set slurm_partition "
        f"({', '.join(known)}) and slurm_account in the profile, as default-resources or set-resources"
    )


def cancel_left(record: Path, before: str, taken: float) -> list[str]:
    """Cancel what jobs an earlier Snakemake left in the queue; gives their ids.

    For who has the run's turn. A lock says so, and file systems know none, or not another machine's: so
    nothing is cancelled unless it is seen that the earlier one is gone.

    Args:
        record: where the name of its jobs is kept.
        before: who had the turn before, as its lock says.
        taken: when, in seconds since 1970.

    Raises:
        TrakError: if it may still run, or Slurm does not answer, or refuses.
    """
    name = record.read_text(encoding="utf-8").strip() if record.exists() else ""
    # Without a name, as a full disk may leave it, Slurm would list every job.
    left = _queued(name) if re.fullmatch(r"[\w-]+", name) else []
    if not left:
        return []
    if before.partition(" on ")[2] != socket.gethostname() or lives(before, taken):
        raise TrakError(
            f"jobs {', '.join(left)} are in Slurm's queue, of another Snakemake on this run (process "
            f"{before}), and it is not seen from here that it has ended; if it has, cancel them with "
            f"`scancel --name {name}`, and run this command again"
        )
    cancelled = _ask(["scancel", *left])
    if cancelled.returncode:
        raise TrakError(
            f"jobs {', '.join(left)}, which an earlier Snakemake left, cannot be cancelled: "
            f"{cancelled.stderr.strip()}; cancel them, or wait for them, and run this command again"
        )
    until = time.monotonic() + END
    while _queued(name) and time.monotonic() < until:
        time.sleep(1)
    return left


def keep_name(record: Path, logs: Sequence[str]) -> None:
    """Keep the name of this Snakemake's jobs.

    Args:
        record: where.
        logs: of Snakemake, which say it.
    """
    for log in logs:
        if found := NAME.search(Path(log).read_text(encoding="utf-8", errors="replace")):
            with suppress(OSError):  # on a full disk; then no one cancels what is left
                record.write_text(f"{found[1]}\n", encoding="utf-8")


def _queued(name: str) -> list[str]:
    answer = _ask(["squeue", "--noheader", "--format=%i", "--name", name])
    if answer.returncode:
        raise TrakError(f"Slurm does not say which jobs are queued: {answer.stderr.strip()}")
    return answer.stdout.split()


def _ask(command: Iterable[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run([*command], capture_output=True, text=True, timeout=ANSWER, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TrakError(f"Slurm does not answer: {error}") from error
