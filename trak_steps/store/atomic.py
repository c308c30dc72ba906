"""Outputs that are complete or absent.

A path written here is in one of three states:

* absent: nothing, or only a temporary sibling ``.<name>.<pid>@<host>.<random>.tmp`` that a writer
  is filling or that a killed writer left;
* complete: the whole output, put in place by one rename after its files reached the disk;
* replaced: a second writer finished too. The last rename wins and each is whole.
"""

import errno
import glob
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from trak_steps.errors import TrakError

_TEMPORARY = re.compile(r"\..+\.(?P<pid>\d+)@(?P<host>.+)\.[0-9a-f]{8}(\.old)?\.tmp")
# Whether a writer on another machine still lives cannot be asked; none writes this long.
ABANDONED = 24 * 3600.0
# Seconds by which the clocks of a machine and of the disk that it writes to may differ.
CLOCKS = 300.0
# How often two writers may have to get out of each other's way.
ATTEMPTS = 20
_ADVICE = {
    errno.ENOSPC: "; free some space and run the same command again",
    errno.EDQUOT: "; free some of your quota and run the same command again",
    errno.EROFS: "; choose a folder that can be written to",
    errno.EACCES: "; choose a folder that you may write to",
    errno.EFBIG: "; raise the limit on the size of files (ulimit -f)",
    errno.EIO: "; the disk fails",
}
_IN_THE_WAY = (errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.EISDIR, errno.ENOTDIR)


@contextmanager
def complete_or_absent(path: Path) -> Iterator[Path]:
    """Give a temporary path to write a file or a folder to, and rename it to ``path`` at the end.

    Nothing is left under ``path`` or beside it when the body raises. Leftovers of writers that are
    no longer alive are removed first.

    Raises:
        TrakError: if the folder cannot be written to.
    """
    writer = f"{os.getpid()}@{socket.gethostname()}.{secrets.token_hex(4)}"
    temporary = path.with_name(f".{path.name}.{writer}.tmp")
    try:
        with explain_disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            for sibling in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
                if _is_left(sibling):
                    _remove(sibling)
            yield temporary
            flush(temporary)
            _put_in_place(temporary, path)
    finally:
        _remove(temporary)


@contextmanager
def explain_disk_errors(path: Path) -> Iterator[None]:
    """Raise TrakError, naming the output, where the body fails because the disk or a folder refuses.

    Libraries that are not written in Python have errors of their own, known by their words alone.
    """
    try:
        yield
    except Exception as error:
        if words := _refusal(path, error):
            raise TrakError(words) from error
        raise


def _refusal(path: Path, error: Exception) -> str | None:
    if isinstance(error, TrakError):
        return None
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, OSError) and number not in _ADVICE and not _about(path, error.filename):
        return f"{error.filename}: {error.strerror} (while {path} was being made)"
    if number is None:
        said = str(error)
        number = next((code for code in _ADVICE if _says(said, code)), None)
        if number is None and not isinstance(error, OSError):
            return None
    why = os.strerror(number) if number else str(error)
    return f"{path}: cannot be written ({why}){_ADVICE.get(number or 0, '')}"


def _about(path: Path, named: object) -> bool:
    """Whether the file that an error names has to do with writing ``path``; if it names one."""
    if not isinstance(named, (str, os.PathLike)):
        return True
    file = Path(named)
    return path.parent in file.parents or file in (path, path.parent, *path.parents)


def _says(words: str, number: int) -> bool:
    """Whether an error of Rust or C++ speaks of this one of the operating system's."""
    known = f"os error {number})" in words or os.strerror(number) in words
    of_torch = "PytorchStreamWriter failed" in words or "inline_container" in words
    return known or (number == errno.ENOSPC and of_torch)


def sweep(root: Path) -> list[Path]:
    """Remove what writers that are no longer alive left anywhere below a folder; returns what."""
    found = abandoned(root)
    for path in found:
        _remove(path)
    return found


def leftovers(root: Path) -> list[Path]:
    """Temporary files and folders below ``root``, of writers alive or not."""
    return sorted(path for path in root.rglob(".*.tmp") if _TEMPORARY.fullmatch(path.name))


def abandoned(root: Path) -> list[Path]:
    """Those of them whose writers are no longer alive."""
    return [path for path in leftovers(root) if _is_left(path)]


def flush(path: Path) -> None:
    """Wait until a file, or all of a folder, is on the disk."""
    for folder, _, files in os.walk(path):
        for name in files:
            _sync(Path(folder) / name)
        _sync(Path(folder))
    _sync(path)


def _put_in_place(temporary: Path, path: Path) -> None:
    """Rename; a folder that is in the way is first moved aside, since folders do not overwrite."""
    aside = temporary.with_name(temporary.name.removesuffix(".tmp") + ".old.tmp")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            if path.is_dir() and not path.is_symlink():
                path.rename(aside)
            temporary.replace(path)
            break
        except OSError as error:
            # Another writer of the same output may have been between two of these steps.
            if error.errno not in _IN_THE_WAY or attempt == ATTEMPTS or not temporary.exists():
                if aside.exists() and not path.exists():
                    aside.rename(path)
                raise
        finally:
            _remove(aside)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_left(path: Path) -> bool:
    """Whether a path is a temporary one whose writer is no longer alive."""
    named = _TEMPORARY.fullmatch(path.name)
    if not named:
        return False
    try:
        changed = max(file.stat().st_mtime for file in (path, *path.rglob("*")))
    except OSError:
        return False
    if named["host"] != socket.gethostname():
        return time.time() - changed > ABANDONED
    return not _writing(int(named["pid"]), changed)


def _writing(pid: int, changed: float) -> bool:
    """Whether the process that wrote at this time is alive; its number may be another's by now."""
    try:
        return bool(psutil.Process(pid).create_time() <= changed + CLOCKS)
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        for _ in range(ATTEMPTS):
            shutil.rmtree(path, ignore_errors=True)
            if not path.exists():
                break
            time.sleep(0.05)  # where one chunk failed, threads of the library may still write others
    else:
        with suppress(OSError):
            path.unlink()
