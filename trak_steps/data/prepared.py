"""Rows that are chosen, labelled and tokenised: the folder ``data/train`` or ``data/targets/<set>``.

The folder holds an Arrow data set (``rows``) and a manifest. Columns: ``row`` (id in the source),
the text columns under their own names, ``label``, ``flipped``, ``group`` where one is set, and the
tokenizer's ``input_ids`` (with ``token_type_ids`` where the model has them), without padding.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from numpy.typing import NDArray

from trak_steps.errors import TrakError
from trak_steps.store.atomic import complete_or_absent
from trak_steps.store.manifest import Manifest

ROWS = "rows"


@dataclass(frozen=True)
class PreparedRows:
    """A prepared set of n rows, read lazily from disk."""

    path: Path
    manifest: Manifest
    rows: datasets.Dataset

    @classmethod
    def load(cls, path: Path) -> "PreparedRows":
        """Open a prepared folder. Raises TrakError if it is missing or not whole."""
        manifest = Manifest.load(path, "data")
        try:
            rows = datasets.load_from_disk(str(path / ROWS))
        except Exception as error:  # whatever pyarrow and datasets raise for damaged files
            raise TrakError(f"{path}: its rows cannot be read ({error}); rerun prepare") from error
        if len(rows) != manifest.details["rows"]:
            raise TrakError(
                f"{path}: holds {len(rows)} rows, its manifest says {manifest.details['rows']}; "
                "rerun prepare"
            )
        return cls(path, manifest, rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def digest(self) -> str:
        """The digest of the rows' content."""
        return self.manifest.content

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
        table = self.rows.with_format("arrow")[start : len(self) if stop is None else stop]
        values: NDArray[Any] = table[name].to_numpy(zero_copy_only=False)
        return values

    def tokens(self, start: int, stop: int) -> list[dict[str, list[int]]]:
        """The tokenizer's output for the rows from ``start`` to ``stop``, one mapping a row."""
        names = [name for name in ("input_ids", "token_type_ids") if name in self.rows.column_names]
        part = self.rows.select_columns(names)[start:stop]
        return [
            dict(zip(names, values, strict=True))
            for values in zip(*(part[name] for name in names), strict=True)
        ]


def save(path: Path, rows: datasets.Dataset, manifest: Manifest) -> None:
    """Write a prepared folder, complete or absent."""
    with complete_or_absent(path) as folder:
        rows.save_to_disk(str(folder / ROWS), num_proc=None)
        manifest.save(folder)


def digest_rows(rows: datasets.Dataset, columns: Sequence[str]) -> str:
    """The SHA-256 of the named columns' values, whatever files and chunks they lie in."""
    digest = hashlib.sha256()
    sink = pa.PythonFile(_Hashing(digest), mode="w")
    writer = None
    for table in rows.select_columns(list(columns)).with_format("arrow").iter(batch_size=1000):
        plain = table.combine_chunks().replace_schema_metadata(None)
        writer = writer or pa.ipc.new_stream(sink, plain.schema)
        writer.write_table(plain)
    if writer:
        writer.close()
    return digest.hexdigest()


class _Hashing:
    """A file that hashes what is written to it."""

    closed = False

    def __init__(self, digest: Any) -> None:
        self._digest = digest

    def write(self, data: Any) -> int:
        self._digest.update(data)
        return len(data)

    def flush(self) -> None: ...
    def close(self) -> None: ...
