"""Read one split of a data set, whatever kind it is, and say clearly when that fails."""

import re
from collections.abc import Mapping
from pathlib import Path

import datasets
import pyarrow as pa

from trak_steps.data import demo
from trak_steps.data.files import check_files
from trak_steps.errors import NotFetchedError, TrakError

# What ``datasets`` calls a column that it makes of fields that a CSV file's header does not name.
_UNNAMED = "__index_level_0__"


def load_split(
    path: str,
    name: str | None,
    data_files: Mapping[str, str | list[str]] | None,
    split: str,
    seed: int,
    *,
    revision: str | None = None,
) -> datasets.Dataset:
    """One split as ``datasets`` gives it, or of the built-in demo set.

    Args:
        path, name, data_files: as in :class:`~trak_steps.config.settings.DatasetSettings`.
        split: a split's name.
        seed: only the demo set depends on it.
        revision: of a data set of the hub.

    Raises:
        TrakError: if the data set, the revision or the split cannot be had, the split has no rows, or
            its texts are not UTF-8.
    """
    if path == "demo":
        rows = _demo(split, seed)
    elif path == "pandas":
        raise TrakError("dataset.path: pandas reads pickles, which can run code; save them as parquet")
    else:
        check_files(path, data_files)
        rows = _load(path, name, data_files, split, revision)
        _check_columns(rows, _named(path, name))
    if len(rows) == 0:
        raise TrakError(f"dataset {_named(path, name)}: the split `{split}` has no rows")
    return rows


def _demo(split: str, seed: int) -> datasets.Dataset:
    if split not in demo.SPLITS:
        raise TrakError(f"dataset demo: there is no split `{split}`; it has {', '.join(demo.SPLITS)}")
    rows = datasets.Dataset.from_list(demo.rows(split, seed))
    return rows.cast_column("label", datasets.ClassLabel(names=list(demo.LABELS)))


def _load(
    path: str,
    name: str | None,
    data_files: Mapping[str, str | list[str]] | None,
    split: str,
    revision: str | None,
) -> datasets.Dataset:
    files = dict(data_files) if data_files else None
    try:
        rows = datasets.load_dataset(path, name, data_files=files, split=split, revision=revision)
    except Exception as error:  # a data set's loader may raise anything; the user gets its words
        raise _explained(path, name, split, revision, error) from error
    if not isinstance(rows, datasets.Dataset):
        raise TrakError(f"dataset {_named(path, name)}: `{split}` is not one split")
    return rows


def _check_columns(rows: datasets.Dataset, named: str) -> None:
    """Refuse what readers let through: fields of CSV without a name, and texts that are not UTF-8."""
    if _UNNAMED in rows.column_names:
        raise TrakError(
            f"dataset {named}: its rows have more fields than its header names; name all columns, and "
            "put texts that hold commas in quotes"
        )
    for column in rows.column_names:
        first = 0
        for chunk in rows.data.column(column).chunks:
            if _is_text(chunk.type) and not _is_utf8(chunk):
                row = first + next(i for i in range(len(chunk)) if not _is_utf8(chunk[i : i + 1]))
                raise TrakError(
                    f"dataset {named}: `{column}` of row {row} is not UTF-8 text; save the file as UTF-8"
                )
            first += len(chunk)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_utf8(texts: pa.Array) -> bool:
    try:
        texts.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def commit_of(rows: datasets.Dataset) -> str | None:
    """The commit that rows of the hub are of: their library names the folder of its cache by it."""
    for file in rows.cache_files:
        folder = Path(file["filename"]).parent.name
        if re.fullmatch("[0-9a-f]{40}", folder):
            return folder
    return None


def _explained(
    path: str, name: str | None, split: str, revision: str | None, error: Exception
) -> TrakError:
    chain: list[BaseException] = [error]
    while following := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(following)
    kinds = {type(link).__name__ for link in chain}
    named = _named(path, name)
    if "RevisionNotFoundError" in kinds:
        return TrakError(f"dataset.revision: {named} has no revision `{revision}` on the hub")
    # Loaders wrap what went wrong; the innermost words are the ones that help. But where JSON lines
    # could not be read, the reader tries again as if they were one value, and only its first words help.
    tried = [link for link in chain if isinstance(link, pa.ArrowInvalid)]
    words = next((w for w in map(_words, tried + chain[::-1]) if w), type(error).__name__)
    if "corresponds to no data" in words:
        return TrakError(f"dataset {named}: the split `{split}` has no rows")
    if kinds & {
        "ConnectionError",
        "ConnectError",
        "OfflineModeIsEnabled",
        "LocalEntryNotFoundError",
    }:
        return NotFetchedError(
            f"dataset.path: {named} could not be fetched, the hub cannot be reached ({words}); "
            "set dataset.path to parquet, csv or json and dataset.data_files to local files"
        )
    if "split" in words.lower():
        return TrakError(f"dataset {named}: the split `{split}` cannot be had: {words}")
    return TrakError(f"dataset {named}: cannot be loaded: {words}")


def _words(error: BaseException) -> str:
    """What an exception says, shortened: its first line, and the last of a cast that failed."""
    lines = str(error).strip().split("\n")
    if lines[0].startswith("Couldn't cast"):
        return f"columns of one file cannot be cast to those of another: {lines[-1][-200:]}"
    return lines[0][:300]


def _named(path: str, name: str | None) -> str:
    return f"{path}/{name}" if name else path
