"""Read one split of a data set, whatever kind it is, and say clearly when that fails."""

from collections.abc import Mapping
from glob import glob
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from trak_steps.data import demo
from trak_steps.errors import TrakError


def load_split(
    path: str,
    name: str | None,
    data_files: Mapping[str, str | list[str]] | None,
    split: str,
    seed: int,
) -> datasets.Dataset:
    """One split as ``datasets`` gives it, or of the built-in demo set.

    Args:
        path, name, data_files: as in :class:`~trak_steps.config.settings.DatasetSettings`.
        split: a split's name.
        seed: only the demo set depends on it.

    Raises:
        TrakError: if the data set or the split cannot be had, or the split has no rows.
    """
    if path == "demo":
        rows = _demo(split, seed)
    else:
        _check_files(data_files)
        rows = _load(path, name, data_files, split)
    if len(rows) == 0:
        raise TrakError(f"dataset {_named(path, name)}: the split `{split}` has no rows")
    return rows


def _demo(split: str, seed: int) -> datasets.Dataset:
    if split not in demo.SPLITS:
        raise TrakError(f"dataset demo: there is no split `{split}`; it has {', '.join(demo.SPLITS)}")
    rows = datasets.Dataset.from_list(demo.rows(split, seed))
    return rows.cast_column("label", datasets.ClassLabel(names=list(demo.LABELS)))


def _check_files(data_files: Mapping[str, str | list[str]] | None) -> None:
    """The readers' own words on files that are missing or empty would not help."""
    for split, patterns in (data_files or {}).items():
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            if "://" in pattern:
                continue
            files = [Path(file) for file in glob(pattern)]
            if not files:
                raise TrakError(
                    f"dataset.data_files.{split}: there is no file {Path(pattern).absolute()}"
                )
            if all(map(_is_empty, files)):
                raise TrakError(f"dataset.data_files.{split}: the split `{split}` has no rows")


def _is_empty(file: Path) -> bool:
    if file.stat().st_size == 0:
        return True
    try:
        return file.suffix == ".parquet" and bool(pq.read_metadata(file).num_rows == 0)
    except (OSError, pa.ArrowException):
        return False  # not parquet after all: the reader will say so


def _load(
    path: str, name: str | None, data_files: Mapping[str, str | list[str]] | None, split: str
) -> datasets.Dataset:
    files = dict(data_files) if data_files else None
    try:
        rows = datasets.load_dataset(path, name, data_files=files, split=split)
    except Exception as error:  # a data set's loader may raise anything; the person gets its words
        raise TrakError(_explain(path, name, split, error)) from error
    if not isinstance(rows, datasets.Dataset):
        raise TrakError(f"dataset {_named(path, name)}: `{split}` is not one split")
    return rows


def _explain(path: str, name: str | None, split: str, error: Exception) -> str:
    chain: list[BaseException] = [error]
    while following := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(following)
    kinds = {type(link).__name__ for link in chain}
    named = _named(path, name)
    # Loaders wrap what went wrong; the innermost words are the ones that help.
    words = next((w for w in map(_first_line, reversed(chain)) if w), type(error).__name__)
    if "corresponds to no data" in words:
        return f"dataset {named}: the split `{split}` has no rows"
    if kinds & {
        "ConnectionError",
        "ConnectError",
        "OfflineModeIsEnabled",
        "LocalEntryNotFoundError",
    }:
        return (
            f"dataset.path: {named} could not be fetched, the hub cannot be reached ({words}); "
            "set dataset.path to parquet, csv or json and dataset.data_files to local files"
        )
    if "split" in words.lower():
        return f"dataset {named}: the split `{split}` cannot be had: {words}"
    return f"dataset {named}: cannot be loaded: {words}"


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:300]


def _named(path: str, name: str | None) -> str:
    return f"{path}/{name}" if name else path
