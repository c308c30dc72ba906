"""Rows that are chosen, labelled and tokenised: the folder ``data/train`` or ``data/targets/<set>``.

The folder holds the rows as an Arrow IPC stream (``rows.arrow``), the digest of each row
(``digests.npy``) and a manifest. Columns: ``row`` (id in the source), the text columns under their own
names, ``label``, ``flipped``, ``group`` where one is set, and the tokenizer's ``input_ids`` (with
``token_type_ids`` where the model has them), without padding.

A row's digest is of what a model sees of it and is asked about it: id, tokens and label. So one
knows what some rows of a set are, without reading the others, and a larger set that begins with the
same rows is known to do so.
"""

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trak_steps.data.digests import DIGESTS, load_digests, rows_content
from trak_steps.errors import TrakError
from trak_steps.store.atomic import complete_or_absent
from trak_steps.store.manifest import Manifest, digest_json
from trak_steps.store.tree import check_tree, digest_file

# Rows whose mean length is recorded.
FIRST = 256
ROWS = "rows.arrow"
TOKENS = ("input_ids", "token_type_ids")
# Rows of one record batch. Some rows are found by reading no other batches than theirs.
BATCH = 1000


@dataclass(frozen=True)
class PreparedRows:
    """A prepared set of n rows.

    Attributes:
        path: of its folder.
        manifest: of its folder.
        table: all columns, memory-mapped: a value is read from disk where it is used.
        digests: of each row, [n, 32].
    """

    path: Path
    manifest: Manifest
    table: pa.Table
    digests: NDArray[np.uint8]

    @classmethod
    def load(cls, path: Path) -> "PreparedRows":
        """Open a prepared folder. Raises TrakError if it is missing, not whole, or was altered."""
        return cls._load(path, large=True)

    @classmethod
    def open(cls, path: Path) -> "PreparedRows":
        """Open a prepared folder of which only some rows will be read, by :meth:`inputs`."""
        return cls._load(path, large=False)

    @classmethod
    def _load(cls, path: Path, *, large: bool) -> "PreparedRows":
        manifest = Manifest.load(path, "data")
        check_tree(path, manifest.files, only=lambda name: large or name != ROWS)
        try:
            with pa.memory_map(str(path / ROWS)) as file, pa.ipc.open_stream(file) as stream:
                table = stream.read_all()
        except (pa.ArrowException, OSError, ValueError) as error:
            raise TrakError(f"{path}: its rows cannot be read ({error}); rerun prepare") from error
        digests = load_digests(path)
        if not len(table) == len(digests) == manifest.details["rows"]:
            raise TrakError(
                f"{path}: holds {len(table)} rows and {len(digests)} digests, its manifest says "
                f"{manifest.details['rows']} rows; rerun prepare"
            )
        return cls(path, manifest, table, digests)

    def __len__(self) -> int:
        return len(self.table)

    @property
    def content(self) -> str:
        """The digest of what models see of all rows, and of the classes."""
        return self.manifest.content

    def content_of(self, start: int, stop: int) -> str:
        """The same of the rows from ``start`` to ``stop``."""
        return rows_content(self.digests[start:stop], self.classes)

    @property
    def classes(self) -> str:
        """The digest of the classes, their names and their order."""
        return str(self.manifest.details["classes_digest"])

    @property
    def text_columns(self) -> list[str]:
        """One or two names."""
        return list(self.manifest.details["text"])

    @property
    def label_names(self) -> list[str]:
        """A name a class; empty for regression."""
        return list(self.manifest.details["label_names"])

    @property
    def outputs(self) -> int:
        """How many logits a model for these rows has."""
        return int(self.manifest.details["outputs"])

    def column(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """A column of numbers or texts, of the rows from ``start`` to ``stop``."""
        stop = len(self) if stop is None else stop
        values: NDArray[Any] = self.table[name].slice(start, stop - start).to_numpy()
        return values

    def take(self, places: NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
        """Some columns of the rows at ``places``, which ascend; of other rows nothing is copied."""
        assert (np.diff(places) > 0).all()
        wanted = np.zeros(len(self), bool)
        wanted[places] = True
        # A filter goes batch by batch; `Table.take` may copy whole columns first.
        return self.table.select(list(columns)).filter(pa.array(wanted)).combine_chunks()

    def inputs(self, start: int, stop: int) -> pa.Table:
        """What models see of the rows from ``start`` to ``stop``: ``row``, ``label`` and tokens.

        Raises:
            TrakError: if a row is not what its digest says.
        """
        try:
            table = _inputs(self.table).slice(start, stop - start)
            # A length that is damaged would have memory read that is not the table's.
            table.validate(full=True)
            table = table.combine_chunks()
            wrong = np.flatnonzero((digest_inputs(table) != self.digests[start:stop]).any(axis=1))
        except (pa.ArrowException, ValueError, OSError) as error:
            raise TrakError(f"{self.path}: its rows cannot be read ({error}); rerun prepare") from error
        if wrong.size:
            raise TrakError(
                f"{self.path}: row {start + wrong[0]} is damaged or was altered after it was written; "
                "delete the folder and rerun prepare"
            )
        return table

    def tokens(self, start: int, stop: int) -> list[dict[str, list[int]]]:
        """The tokenizer's output for the rows from ``start`` to ``stop``, one mapping a row."""
        return token_lists(self.inputs(start, stop))


def token_lists(inputs: pa.Table) -> list[dict[str, list[int]]]:
    """The tokens in a table of inputs, one mapping a row."""
    names = [name for name in TOKENS if name in inputs.column_names]
    return [
        dict(zip(names, values, strict=True))
        for values in zip(*(inputs[name].to_pylist() for name in names), strict=True)
    ]


def save(path: Path, batches: Iterable[pa.Table], manifest: Manifest, classes: dict[str, Any]) -> None:
    """Write a prepared folder, complete or absent. No more than a batch of rows is held.

    Args:
        path: where.
        batches: :data:`BATCH` rows each but the last, of one schema, with the columns named above.
        manifest: without content, which is filled in.
        classes: JSON values that say what the labels mean; they go to the manifest's details.
    """
    known = digest_json(classes)
    digests: list[NDArray[np.uint8]] = []
    tokens = 0.0
    with complete_or_absent(path) as folder:
        folder.mkdir()
        with ExitStack() as stack:
            file: Any = None
            for table in batches:
                if file is None:
                    stream = pa.ipc.new_stream(str(folder / ROWS), table.schema)
                    file = stack.enter_context(stream)
                    # Of the first rows, so that a larger set that begins with them has the same.
                    lengths = pc.list_value_length(table["input_ids"].slice(0, FIRST))
                    tokens = round(pc.mean(lengths).as_py(), 1)
                file.write_table(table)
                digests.append(digest_inputs(_inputs(table)))
        of_rows = np.concatenate(digests)
        np.save(folder / DIGESTS, of_rows)
        details = {
            **manifest.details,
            **classes,
            "rows": len(of_rows),
            "classes_digest": known,
            "table_digest": digest_file(folder / ROWS),
            "tokens": tokens,
        }
        Manifest(
            manifest.kind,
            made_from=manifest.made_from,
            settings=manifest.settings,
            version=manifest.version,
            content=rows_content(of_rows, known),
            details=details,
        ).save(folder)


def _inputs(rows: pa.Table) -> pa.Table:
    return rows.select(["row", "label", *(name for name in TOKENS if name in rows.column_names)])


def digest_inputs(table: pa.Table) -> NDArray[np.uint8]:
    """The SHA-256 of each row's id, label and tokens, [n, 32].

    Args:
        table: columns ``row`` and ``label`` of numbers, and lists of integers.
    """
    n = len(table)
    parts: list[list[bytes]] = []
    for name in table.column_names:
        column = table[name].combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # what combining gives for no chunk at all
            column = pa.concat_arrays(column.chunks) if column.chunks else pa.array([], column.type)
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            values = column.flatten().to_numpy(zero_copy_only=False).astype("<i8").tobytes()
            ends = 8 * np.cumsum([0, *column.value_lengths().to_pylist()])
            cells = [values[a:b] for a, b in pairwise(ends)]
        else:
            numbers = column.to_numpy(zero_copy_only=False)
            data = numbers.astype("<f8" if numbers.dtype.kind == "f" else "<i8").tobytes()
            cells = [data[8 * i : 8 * i + 8] for i in range(n)]
        parts.append(cells)
    head = "\0".join(table.column_names).encode()
    digests = bytearray()
    for cells_of_row in zip(*parts, strict=True):
        digest = hashlib.sha256(head)
        for cell in cells_of_row:
            digest.update(len(cell).to_bytes(8, "little"))
            digest.update(cell)
        digests += digest.digest()
    return np.frombuffer(bytes(digests), np.uint8).reshape(n, 32)
