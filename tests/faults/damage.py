"""Ways in which a file may be damaged."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trak_steps.store.tree import RECEIPT

Damage = Callable[[Path, np.random.Generator], None]


def flip_bit(file: Path, random: np.random.Generator) -> None:
    """One bit becomes the other."""
    data = bytearray(file.read_bytes())
    data[random.integers(len(data))] ^= 1 << int(random.integers(8))
    file.write_bytes(data)


def overwrite(file: Path, random: np.random.Generator) -> None:
    """A few bytes become others, as when a block of the disk is lost."""
    data = bytearray(file.read_bytes())
    start = int(random.integers(len(data)))
    stop = min(len(data), start + int(random.integers(1, 64)))
    data[start:stop] = bytes(255 - byte for byte in data[start:stop])
    file.write_bytes(data)


def cut(file: Path, random: np.random.Generator) -> None:
    """The file ends too early."""
    data = file.read_bytes()
    file.write_bytes(data[: int(random.integers(len(data)))])


def lengthen(file: Path, random: np.random.Generator) -> None:
    """Something is written after the end."""
    file.write_bytes(file.read_bytes() + random.bytes(int(random.integers(1, 32))))


def lose(file: Path, random: np.random.Generator) -> None:  # noqa: ARG001 - as the others
    """The file is gone."""
    file.unlink()


DAMAGES: tuple[Damage, ...] = (flip_bit, flip_bit, overwrite, cut, lengthen, lose)


def files_of(path: Path) -> list[Path]:
    """The files of an output, Snakemake's and the receipt aside."""
    if path.is_file():
        return [path]
    return sorted(f for f in path.rglob("*") if f.is_file() and f.name[0] != "." and f.name != RECEIPT)


def means_the_same(file: Path, before: bytes) -> bool:
    """Whether a file still says what it said: other white space in JSON, unread bytes in parquet."""
    if not file.exists():
        return False
    if file.suffix == ".json":
        try:
            return bool(json.loads(file.read_bytes()) == json.loads(before))
        except ValueError:
            return False
    if file.suffix == ".parquet":
        try:
            table, old = pq.read_table(file), pq.read_table(pa.BufferReader(before))
        except (OSError, ValueError, pa.ArrowException):
            return False
        return bool(table.equals(old) and table.schema.metadata == old.schema.metadata)
    return False


def put(source: Path, destination: Path) -> None:
    """A copy of one output in the place of another."""
    remove(destination)
    if source.is_dir():
        shutil.copytree(source, destination)
    else:
        shutil.copyfile(source, destination)


def remove(path: Path) -> None:
    """Remove an output, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
