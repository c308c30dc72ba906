"""A job's log, for the one who writes it and for the one who reads it meanwhile or afterwards."""

import os
import re
import socket
import stat
import sys
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from trak_steps.console.printable import printable
from trak_steps.console.progress import say
from trak_steps.store.lock import is_held, mark_alive

# What is read of a log's end: the last lines of any step, or a traceback.
TAIL = 16_384
LONGEST = 200
_BEGAN = re.compile(r"began (\S+) on (\S+), process \d+")
# How a step ends that refuses, fails, or cannot be found; and how one that was stopped from outside.
_FAILED = re.compile(r"error: |Error: |Traceback |([\w.]+(Error|Exception))\b|\S*sh: (line )?\d+: ")
_STOPPED = ("KeyboardInterrupt", "Aborted")


@cache
def begin() -> None:
    """Say in the log of this process when and where it began, and hold the log for as long as it lives.

    A terminal is told nothing, and neither is a pipe.
    """
    with suppress(OSError, ValueError):  # a standard error that is no file at all
        descriptor = sys.stderr.fileno()
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            mark_alive(descriptor)
            now = datetime.now(UTC).isoformat(timespec="seconds")
            say(f"began {now} on {socket.gethostname()}, process {os.getpid()}")


@dataclass(frozen=True)
class JobLog:
    """What a log tells.

    Attributes:
        began: when its job did, in seconds since 1970; none if it does not say.
        changed: when it was last written to.
        alive: whether a process holds it; none where that is not known: it does not say that it began,
            or did so on another machine, whose locks may not be seen.
        lines: its last lines, made safe to print, without empty ones and that which says when it
            began; of a bar that was drawn again and again, the last state.
    """

    began: float | None
    changed: float
    alive: bool | None
    lines: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> "JobLog | None":
        """The log at a path; none if there is none.

        Raises:
            OSError: if it cannot be read.
        """
        try:
            alive = is_held(path)
            with path.open("rb") as file:
                changed, size = (found := os.fstat(file.fileno())).st_mtime, found.st_size
                head = file.readline(LONGEST)
                file.seek(max(0, size - TAIL))
                tail = file.read(TAIL)
        except FileNotFoundError:
            return None
        drawn = (line.rstrip(b"\r").rpartition(b"\r")[2] for line in tail.split(b"\n"))
        lines = (printable(line.decode(errors="replace"), LONGEST) for line in drawn)
        whole = (line.rstrip() for line in lines if line.strip() and not _BEGAN.fullmatch(line))
        began, host = _began(head)
        known = alive if alive or host == socket.gethostname() else None
        return cls(began, changed, known, tuple(whole))

    @property
    def failed(self) -> bool:
        """Whether it ends as that of a step does which refused or failed, and was not stopped."""
        stopped = self.lines and self.lines[-1].startswith(_STOPPED)
        return not stopped and any(_FAILED.match(line) for line in self.lines)


def _began(head: bytes) -> tuple[float | None, str | None]:
    """When and where a job did, by the first line of its log."""
    found = _BEGAN.fullmatch(head.decode(errors="replace").strip())
    if found:
        with suppress(ValueError):
            return datetime.fromisoformat(found[1]).timestamp(), found[2]
    return None, None
