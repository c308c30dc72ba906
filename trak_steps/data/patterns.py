"""Which local files a data set is read from, told by the settings.

The workflow asks here what its inputs are, so nothing heavy is imported.
"""

from glob import glob
from pathlib import Path

# The built-in set, and the readers that every version of `datasets` has: it takes these names for
# readers even where a folder of that name lies beside.
BUILDERS = frozenset({"demo", "arrow", "csv", "json", "pandas", "parquet", "text"})


def files_named(pattern: str) -> list[str]:
    """The local files that a path or a pattern names, in order; ``**`` stands for folders at any depth.

    None for an address such as ``hf://...``.
    """
    if "://" in pattern:
        return []
    return sorted(file for file in glob(pattern, recursive=True) if Path(file).is_file())


def local_folder(path: str) -> Path | None:
    """The folder that ``dataset.path`` names; none where it names a builder or a set of the hub."""
    folder = Path(path)
    return folder if path not in BUILDERS and folder.is_dir() else None
