"""Outputs that are complete or absent.

A path written here is in one of three states:

* absent: nothing, or only a temporary sibling ``.<name>.<pid>@<host>.<random>.tmp`` that a writer
  is filling or that a killed writer left;
* complete: the whole output, put in place by one rename after its files reached the disk;
* replaced: a second writer finished too. The last rename wins and each is whole.
"""

import glob
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trak_steps.errors import TrakError

_TEMPORARY = re.compile(r"(?P<pid>\d+)@(?P<host>.+)\.[0-9a-f]{8}(\.old)?\.tmp")


@contextmanager
def complete_or_absent(path: Path) -> Iterator[Path]:
    """Give a temporary path to write a file or a folder to, and rename it to ``path`` at the end.

    Nothing is left under ``path`` or beside it when the body raises. Leftovers of writers that are
    no longer alive on this host are removed first.

    Raises:
        TrakError: if the folder cannot be written to.
    """
    writer = f"{os.getpid()}@{socket.gethostname()}.{secrets.token_hex(4)}"
    temporary = path.with_name(f".{path.name}.{writer}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        yield temporary
        _flush(temporary)
        _put_in_place(temporary, path)
    except OSError as error:
        raise TrakError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        _remove(temporary)


def _put_in_place(temporary: Path, path: Path) -> None:
    """Rename; a folder that is in the way is first moved aside, since folders do not overwrite."""
    if path.is_dir() and not path.is_symlink():
        aside = temporary.with_name(temporary.name.removesuffix(".tmp") + ".old.tmp")
        path.rename(aside)
        temporary.rename(path)
        _remove(aside)
    else:
        temporary.replace(path)
    _sync(path.parent)


def _flush(path: Path) -> None:
    for folder, _, files in os.walk(path):
        for name in files:
            _sync(Path(folder) / name)
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_leftovers(path: Path) -> None:
    """Remove what writers of ``path`` left that ran on this host and no longer run."""
    for sibling in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        named = _TEMPORARY.fullmatch(sibling.name.removeprefix(f".{path.name}."))
        if named and named["host"] == socket.gethostname() and not _alive(int(named["pid"])):
            _remove(sibling)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
