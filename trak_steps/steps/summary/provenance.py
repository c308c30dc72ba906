"""Step ``provenance``: what every output of the run was made from, back to the source."""

from pathlib import Path
from typing import Any

from trak_steps import __version__
from trak_steps.config import Settings
from trak_steps.console.progress import say
from trak_steps.errors import TrakError
from trak_steps.run.layout import Layout, checkpoint_names, shard_names
from trak_steps.run.lineage import Lineage
from trak_steps.run.shards import shard_size
from trak_steps.run.spans import kernel_spans
from trak_steps.run.tiles import tiles
from trak_steps.store.artefact import artefact_manifest
from trak_steps.store.document import save_document
from trak_steps.store.manifest import Manifest

# Raised by hand when the numbers that this step writes change: see CONTRIBUTING.md.
VERSION = 1

NAMED = ("made_from", "settings", "version", "content", "versions")
LEFT_OUT = ("classes", "label_names")


def run(layout: Layout, settings: Settings) -> None:
    """Write ``provenance.json``, after checking that every output was made from those that are there."""
    paths = _paths(layout, settings)
    lineage = Lineage(layout)
    outputs: dict[str, Any] = {}
    for path in paths:
        manifest = artefact_manifest(path)
        lineage.check(path, manifest)
        outputs[layout.name(path)] = _entry(manifest)
    record = {
        "run": settings.run,
        "version": __version__,
        "scores": [layout.name(layout.scores(targets)) for targets in settings.targets],
        "outputs": outputs,
    }
    for name, entry in outputs.items():
        strange = [source for source in entry["made_from"] if source.partition("#")[0] not in outputs]
        if strange:
            raise TrakError(
                f"{layout.root / name}: was made from {strange[0]}, which is no part of the run "
                "with these settings; delete it and rerun"
            )
    made_from = {name: entry["content"] for name, entry in outputs.items()}
    manifest = Manifest("provenance", made_from=made_from, version=VERSION)
    save_document(layout.provenance, record, manifest)
    say(f"wrote {layout.provenance}: {len(outputs)} outputs")


def _paths(layout: Layout, settings: Settings) -> list[Path]:
    """Every output of the run, in the order of the pipeline."""
    rows = int(artefact_manifest(layout.train, "data").details["rows"])
    shards = shard_names(rows, shard_size(settings.features, layout))
    sizes = {
        name: int(artefact_manifest(layout.targets(name), "data").details["rows"])
        for name in settings.targets
    }
    parts = {name: [tile.name for tile in tiles(settings, layout, rows, t)] for name, t in sizes.items()}
    kernels = [span.name for span in kernel_spans(settings, layout, rows)]
    # Whether rows are weighted, this step does not see.
    weighted = artefact_manifest(layout.calibration, "calibration").details.get("parts", ())
    names = checkpoint_names(settings.checkpoints)
    return layout.outputs(names, shards, parts, kernels, weighted)


def _entry(manifest: Manifest) -> dict[str, Any]:
    """An output's manifest without its files, and without classes, which may be many."""
    values = manifest.to_dict()
    details = {name: value for name, value in manifest.details.items() if name not in LEFT_OUT}
    return {"kind": manifest.kind, **{name: values[name] for name in NAMED}, "details": details}
