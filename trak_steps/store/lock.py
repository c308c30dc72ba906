"""Locks that die with their holder, also by ``kill -9``."""

import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trak_steps.errors import TrakError


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
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        return descriptor
    if not sign:
        return descriptor
    with suppress(OSError):  # on a full disk the lock holds, and only the name of its holder is lost
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()} on {socket.gethostname()}".encode())
    return descriptor


def holder(path: Path) -> str:
    """Who holds a lock, as far as it says."""
    try:
        return path.read_text(encoding="utf-8") or "unknown"
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
