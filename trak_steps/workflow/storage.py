"""A run that lies in a storage, and not in a folder that all jobs share.

Snakemake brings each job's inputs to copies on the job's machine, and its outputs to the storage. The
workflow itself has neither: what it must know to plan jobs, it reads in manifests that it asks for.
"""

import shlex
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trak_steps.errors import TrakError
from trak_steps.run.asked import Asked
from trak_steps.run.layout import Layout
from trak_steps.store.tree import MANIFEST

# Seconds for which what was found is taken to be still so, by the memory that jobs ask for: there may be
# thousands of jobs.
FRESH = 60.0


@dataclass
class Stored:
    """Where a run lies in a storage.

    Attributes:
        provider: Snakemake's, of the storage.
        prefix: of everything of the workflow there, with its last slash.
        results: the folder of all runs, as the workflow names it.
        run: the name of this one.
    """

    provider: Any
    prefix: str
    results: Path
    run: str
    _copies: tempfile.TemporaryDirectory[str] = field(default_factory=tempfile.TemporaryDirectory)
    _settled: set[str] = field(default_factory=set)
    _asked: dict[str, float] = field(default_factory=dict)

    @property
    def facts(self) -> Layout:
        """The run as far as it was asked for: manifests, and nothing that they speak of."""
        return Layout(Path(self._copies.name) / self.run)

    @property
    def arguments(self) -> str:
        """What tells a step where Snakemake puts its inputs and takes its outputs from."""
        return f"--results {shlex.quote(str(self._object(self.results).local_path()))}"

    def tell(self, asked: Asked) -> None:
        """Say in the storage what the workflow is asked for, before the first job computes.

        Raises:
            TrakError: if nothing can be written there.
        """
        asked.save(self.facts)
        told = self._object(self.results / self.run / self.facts.asked.name)
        told.set_local_path(self.facts.asked)
        try:
            told.store_object()
        except Exception as error:  # each plugin has errors of its own
            raise TrakError(
                f"{told.print_query}: cannot be written ({error}); set --default-storage-prefix to a "
                "place that you may write to"
            ) from error

    def look(self, folder: str) -> Path:
        """Ask for the manifest of a folder of the run as it is, or was a minute ago.

        Args:
            folder: by its path in the run.

        Returns:
            Where its copy is, if there is one.

        Raises:
            TrakError: if the storage cannot be asked.
        """
        copy = self.facts.root / folder / MANIFEST
        if not (copy.exists() and time.monotonic() - self._asked[folder] < FRESH):
            self._ask(folder, copy)
        return copy

    def has(self, file: str) -> bool:
        """Whether a file of the run is there, by its path in the run.

        Raises:
            TrakError: if the storage cannot be asked.
        """
        wanted = self._object(self.results / self.run / file)
        try:
            return bool(wanted.exists())
        except Exception as error:  # each plugin has errors of its own
            raise TrakError(f"{wanted.print_query}: cannot be asked for ({error})") from error

    def settle(self, *folders: str) -> None:
        """Ask for the manifests of folders that will not be made anew while this process lives."""
        for folder in folders:
            if folder not in self._settled:
                self._ask(folder, self.facts.root / folder / MANIFEST)
                self._settled.add(folder)

    def _ask(self, folder: str, copy: Path) -> None:
        wanted = self._object(self.results / self.run / folder / MANIFEST)
        wanted.set_local_path(copy)
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            if wanted.exists():
                wanted.retrieve_object()
            else:
                copy.unlink(missing_ok=True)
        except Exception as error:  # each plugin has errors of its own
            raise TrakError(f"{wanted.print_query}: cannot be asked for ({error})") from error
        self._asked[folder] = time.monotonic()

    def _object(self, path: Path) -> Any:
        return self.provider.object(f"{self.prefix}{path.as_posix()}")


def stored(workflow: Any, results: Path, run: str) -> Stored | None:
    """Where a workflow's run lies, if it is in a storage.

    Args:
        workflow: Snakemake's.
        results: the folder of all runs, relative.
        run: the name of the run.
    """
    settings = workflow.storage_settings
    if settings is None or settings.default_storage_provider is None:
        return None
    prefix = settings.default_storage_prefix or ""
    if prefix and not prefix.endswith("/"):
        prefix += "/"
    return Stored(workflow.storage_registry.default_storage_provider, prefix, results, run)
