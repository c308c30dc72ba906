"""Look at local data files before their readers do, where a reader would not say what is wrong.

pyarrow's JSON reader ends the whole process, without a word, where a line holds ``null`` for a row and
where values are nested deeper than its stack.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from trak_steps.data.patterns import files_named
from trak_steps.errors import TrakError

LEVELS = 1000
_STRING_OR_BRACKET = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]')
_BOM = b"\xef\xbb\xbf"


def check_files(path: str, data_files: Mapping[str, str | list[str]] | None) -> None:
    """Raise TrakError where files are missing, empty, or would bring their reader down.

    Args:
        path, data_files: as in :class:`~trak_steps.config.settings.DatasetSettings`.
    """
    for split, patterns in (data_files or {}).items():
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            if "://" in pattern:
                continue
            files = [Path(file) for file in files_named(pattern)]
            if not files:
                raise TrakError(
                    f"dataset.data_files.{split}: there is no file {Path(pattern).absolute()}"
                )
            try:
                if all(map(_is_empty, files)):
                    raise TrakError(f"dataset.data_files.{split}: the split `{split}` has no rows")
                for file in files if path == "json" else []:
                    _check_json(file)
            except OSError as error:
                raise TrakError(
                    f"dataset.data_files.{split}: {error.filename} cannot be read ({error.strerror})"
                ) from None


def _is_empty(file: Path) -> bool:
    if file.stat().st_size == 0:
        return True
    try:
        return file.suffix == ".parquet" and bool(pq.read_metadata(file).num_rows == 0)
    except (OSError, pa.ArrowException):
        return False  # not parquet after all: the reader will say so


def _check_json(file: Path) -> None:
    """Refuse rows that are ``null``, and what is nested too deep, in a list or in lines."""
    with file.open("rb") as stream:
        first = stream.read(4096).removeprefix(_BOM).lstrip()[:1]
        stream.seek(0)
        if first == b"[":
            _check_list(file, stream.read())
        if first not in (b"{", b"n"):
            return  # compressed, or no rows at all
        unclosed = 0
        suspicious = False
        for number, line in enumerate(stream, 1):
            if line.removeprefix(_BOM).lstrip().startswith(b"null"):
                raise TrakError(f"{file}: line {number} is null; a line has to be one JSON object")
            opened = line.count(b"[") + line.count(b"{")
            # Brackets within texts count here; whether any are meant is looked up only then.
            unclosed = max(0, unclosed + opened - line.count(b"]") - line.count(b"}"))
            suspicious |= max(opened, unclosed) > LEVELS
        stream.seek(0)
        level = 0
        for number, line in enumerate(stream if suspicious else (), 1):
            for found in _STRING_OR_BRACKET.finditer(line):
                level += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(found[0], 0)
                if level > LEVELS:
                    raise TrakError(f"{file}: line {number} is nested more than {LEVELS} levels deep")


def _check_list(file: Path, content: bytes) -> None:
    try:
        rows = json.loads(content)
    except RecursionError:
        raise TrakError(f"{file}: is nested too deep") from None
    except ValueError:
        return  # the reader will say so
    for i, row in enumerate(rows):
        if row is None:
            raise TrakError(f"{file}: row {i} is null; a row has to be a JSON object")
