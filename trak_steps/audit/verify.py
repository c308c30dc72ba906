"""Walk a run: what is missing, altered, unfinished, or does not fit to the rest."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trak_steps.audit.find import find
from trak_steps.config import Settings
from trak_steps.console.progress import progress
from trak_steps.errors import TrakError
from trak_steps.run.layout import Layout
from trak_steps.run.lineage import Lineage
from trak_steps.store.artefact import check_artefact
from trak_steps.store.atomic import leftovers
from trak_steps.store.document import load_document
from trak_steps.store.manifest import Manifest
from trak_steps.store.tree import is_there

# Kinds of which a run has several, made alike.
_ALIKE = (
    *("features", "kernel-part", "kernel", "checkpoint", "weighted-sums", "score-part", "scores"),
    *("class-sums", "support", "opponents"),
)
GO_ON = "run the same snakemake command again"


@dataclass(frozen=True)
class Problem:
    """Something wrong with a run.

    Attributes:
        what: ``missing``, ``altered``, ``mismatched`` or ``unfinished``.
        path: where.
        words: what it is, and what to do.
    """

    what: str
    path: Path
    words: str

    def __str__(self) -> str:
        return f"{self.what:<10}  {self.words}"


@dataclass(frozen=True)
class Findings:
    """All that was found, and how much was looked at.

    Attributes:
        problems: what is wrong.
        surplus: outputs that the run does not want any more; they are not checked, and no problem.
        outputs, files: how many were checked.
    """

    problems: list[Problem]
    surplus: list[Path]
    outputs: int
    files: int

    @property
    def summary(self) -> str:
        """One line."""
        checked = f"{self.outputs} outputs with {self.files} files checked"
        if self.surplus:
            checked += f", {len(self.surplus)} surplus ones not"
        if not self.problems:
            return f"{checked}: complete, unaltered, and made from one another"
        counts: dict[str, int] = {}
        for problem in self.problems:
            counts[problem.what] = counts.get(problem.what, 0) + 1
        return f"{checked}: " + ", ".join(f"{count} {what}" for what, count in counts.items())


def verify_run(layout: Layout, settings: Settings | None = None) -> Findings:
    """Check every file of every output against its manifest, and every manifest against the others.

    Args:
        layout: of the run.
        settings: of the run, where known; otherwise its last complete run tells what is wanted.

    Raises:
        TrakError: if there is no such run.
    """
    try:
        there = layout.root.is_dir()
    except OSError:
        there = False
    if not there:
        raise TrakError(f"{layout.root}: there is no such run")
    problems: list[Problem] = []
    found = find(layout, settings)
    surplus = set(found.surplus)
    paths = [path for path in found.there if path not in surplus]
    manifests: dict[Path, Manifest] = {}
    for path in progress(paths, total=len(paths), label="checked", unit="output"):
        try:
            manifests[path] = check_artefact(path)
        except TrakError as error:
            problems.append(Problem("altered", path, str(error)))
    for path in found.wanted:
        if not is_there(path):
            words = f"{path}: is not there; {GO_ON}"
            problems.append(Problem("missing", path, words))
    problems += [*_lineage(layout, manifests), *_siblings(manifests), *_kernels(layout, manifests)]
    problems += [*_recorded(layout, manifests), *_unfinished(layout)]
    files = sum(max(1, len(manifest.files)) for manifest in manifests.values())
    return Findings(problems, found.surplus, len(paths), files)


def _lineage(layout: Layout, manifests: dict[Path, Manifest]) -> list[Problem]:
    """Outputs that were made from something else than what is there now."""
    lineage = Lineage(layout)
    return _refused(manifests, lineage.check)


def _siblings(manifests: dict[Path, Manifest]) -> list[Problem]:
    """Outputs of one kind that were made with other settings, or by other code, than the first."""
    first: dict[str, tuple[Path, Manifest]] = {}

    def check(path: Path, manifest: Manifest) -> None:
        if manifest.kind not in _ALIKE:
            return
        beside, other = first.setdefault(manifest.kind, (path, manifest))
        own = (
            "checkpoint",
            "of",
            "size",
            "matrix",
            *(("seed",) if manifest.kind == "checkpoint" else ()),
        )
        shared = {name: value for name, value in other.settings.items() if name not in own}
        manifest.require(path, settings=shared, version=other.version, by=str(beside))

    return _refused(manifests, check)


def _kernels(layout: Layout, manifests: dict[Path, Manifest]) -> list[Problem]:
    """Kernels that were summed over another number of rows than the train set has."""
    train = manifests.get(layout.train)
    wanted = train.details["rows"] if train else None
    return [
        Problem(
            "mismatched",
            path,
            f"{path}: is a sum over {manifest.details['rows']} rows, {layout.train} has {wanted}; "
            "delete the kernel and rerun",
        )
        for path, manifest in manifests.items()
        if manifest.kind == "kernel" and wanted is not None and manifest.details["rows"] != wanted
    ]


def _recorded(layout: Layout, manifests: dict[Path, Manifest]) -> list[Problem]:
    """What was made anew, by another version, since the provenance was written."""
    record = manifests.get(layout.provenance)
    if record is None:
        return []
    entries = load_document(layout.provenance, "provenance")[0]["outputs"]
    return [
        Problem(
            "mismatched",
            layout.provenance,
            f"{layout.provenance}: tells of another {layout.name(path)}; delete it, and {GO_ON}",
        )
        for path, manifest in manifests.items()
        if layout.name(path) in entries and entries[layout.name(path)]["version"] != manifest.version
    ]


def _unfinished(layout: Layout) -> list[Problem]:
    found = [
        Problem(
            "unfinished",
            path,
            f"{path}: left by a killed writer, or still being written; {GO_ON}, which removes it",
        )
        for path in leftovers(layout.root)
    ]
    trainings = layout.training("x").parent
    for path in sorted(trainings.glob("*")):
        words = f"{path}: a training that is not finished; {GO_ON}, or delete it"
        found.append(Problem("unfinished", path, words))
    return found


def _refused(manifests: dict[Path, Manifest], check: Callable[[Path, Manifest], None]) -> list[Problem]:
    problems = []
    for path, manifest in manifests.items():
        try:
            check(path, manifest)
        except TrakError as error:
            problems.append(Problem("mismatched", path, str(error)))
    return problems
