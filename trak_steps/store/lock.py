"""Locks that die with their holder, also by ``kill -9``."""

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from trak_steps.errors import TrakError
from trak_steps.store.atomic import CLOCKS

# Whoever only asks whether a lock is held has it for a moment: so often, and so many seconds apart, is
# it tried.
ATTEMPTS, PAUSE = 5, 0.02


def try_lock(path: Path, *, sign: bool = True, wait: bool = False) -> int | None:
    """Take the lock ``path`` for as long as this process lives, or until its descriptor is closed.

    A file system that knows no locks lets everyone pass.

    Args:
        path: of the lock.
        sign: say in it who holds it.
        wait: until no other process holds it.

    Returns:
        The descriptor; none if another process holds the lock.

    Raises:
        TrakError: if the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise TrakError(f"{path}: cannot be written ({error.strerror or error})") from error
    if not _lock(descriptor, wait=wait):
        os.close(descriptor)
        return None
    if not sign:
        return descriptor
    with suppress(OSError):  # on a full disk the lock holds, and only the name of its holder is lost
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()} on {socket.gethostname()}".encode())
    return descriptor


def mark_alive(descriptor: int) -> None:
    """Lock an open file for as long as this process has it open, or one that it started.

    If another process does the same, this one goes without.
    """
    _lock(descriptor, wait=False)


def is_held(path: Path) -> bool | None:
    """Whether a process holds the lock ``path``; none where that is not known.

    Nothing is written or made. On a network's file system another machine's locks may not be seen.

    Raises:
        OSError: if there is no such file, or it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return False


def _lock(descriptor: int, *, wait: bool) -> bool:
    """Lock an open file. False if another process has it locked."""
    for attempt in range(ATTEMPTS):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            if attempt < ATTEMPTS - 1:
                time.sleep(PAUSE)
        except OSError:
            return True
        else:
            return True
    return False


def lives(holder: str, since: float) -> bool:
    """Whether the process that a lock was taken by is alive, and on this machine.

    Args:
        holder: as :func:`holder` gives it.
        since: when the lock was taken, in seconds since 1970.
    """
    number, _, host = holder.partition(" on ")
    if host != socket.gethostname():
        return False
    try:
        return bool(psutil.Process(int(number)).create_time() <= since + CLOCKS)
    except (ValueError, psutil.Error):
        return False


def holder(path: Path) -> str:
    """Who holds a lock, as far as it says."""
    try:
        return path.read_text(encoding="utf-8", errors="replace") or "unknown"
    except OSError:
        return "unknown"


@contextmanager
def one_at_a_time(path: Path, waiting: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock ``path`` during the body.

    Args:
        path: of the lock.
        waiting: is told who has the lock, if it has to be waited for.
    """
    descriptor = try_lock(path)
    if descriptor is None:
        waiting(holder(path))
        descriptor = try_lock(path, wait=True)
    assert descriptor is not None
    try:
        yield
    finally:
        os.close(descriptor)
