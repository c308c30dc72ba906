"""Step ``model``: bring the model to fine-tune into the run, or make the demo's.

Where checkpoints are imported, only the tokenizer and configuration of the first are needed.
"""

import tempfile
from pathlib import Path
from typing import Any

from trak_steps.config import Settings
from trak_steps.config.settings import DEMO
from trak_steps.console.progress import say
from trak_steps.data.labels import require_column
from trak_steps.data.source import load_split
from trak_steps.data.tasks import text_columns
from trak_steps.errors import TrakError
from trak_steps.model.demo import make_demo_model
from trak_steps.model.fetch import fetch_model, fetch_tokenizer, with_revision
from trak_steps.model.files import ADAPTER_CONFIG, tokenizer_files
from trak_steps.model.load import count_parameters, load_config
from trak_steps.run.layout import Layout
from trak_steps.store.atomic import complete_or_absent
from trak_steps.store.manifest import Manifest

# Raised by hand when the numbers that this step writes change: see CONTRIBUTING.md.
VERSION = 1


def run(layout: Layout, settings: Settings, existing: str | None = None) -> None:
    """Write ``model/``: configuration, tokenizer and, unless from scratch, weights.

    Args:
        layout, settings: of the run.
        existing: the first of the imported checkpoints.
    """
    model = settings.model
    # What the memory of later jobs is reckoned from.
    parameters: int | None = None
    details: dict[str, Any] = {}
    named = model.name_or_path
    if named != DEMO:
        named = with_revision(named, model.revision)
    revisions: dict[str, str] = {}
    with complete_or_absent(layout.model) as folder:
        if existing and settings.evaluation.retrain_imported:
            # What models are trained from, beside those that are imported; these say the classes.
            revisions = _fetch(settings, named, folder, weights=True)
            details["classes"] = _classes(settings, existing)
        elif existing:
            revisions = _fetch(settings, existing, folder, weights=False)
            if not tokenizer_files(folder):
                base = None if named == DEMO else named
                found = fetch_tokenizer(folder, existing, base)
                say(f"{existing} has no tokenizer; took that of {found}")
        elif named == DEMO:
            parameters = make_demo_model(_train_texts(settings), folder)
        else:
            revisions = _fetch(settings, named, folder, weights=True)
        if revisions:
            details["revisions"] = revisions
        if parameters is None:
            parameters = count_parameters(folder, trust_remote_code=model.trust_remote_code)
        source = existing or model.name_or_path
        Manifest(
            "model",
            settings={"trust_remote_code": model.trust_remote_code},
            version=VERSION,
            details={
                "source": source,
                "classifier": bool(existing),
                "parameters": parameters,
                **details,
            },
        ).save(folder)
    say(f"wrote {layout.model}")


def _fetch(settings: Settings, named: str, folder: Path, *, weights: bool) -> dict[str, str]:
    return fetch_model(
        named,
        folder,
        setting="model.name_or_path" if weights else "checkpoints.existing",
        weights=weights,
        trust_remote_code=settings.model.trust_remote_code,
    )


def _classes(settings: Settings, existing: str) -> list[str]:
    """What a classifier calls its classes, in the order of its outputs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "classifier"
        _fetch(settings, existing, folder, weights=False)
        if (Path(existing).expanduser() / ADAPTER_CONFIG).is_file():
            raise TrakError(
                f"evaluation.retrain_imported: {existing} is an adapter, and `finetune` trains whole "
                "models; set it to false"
            )
        try:
            config = load_config(folder, trust_remote_code=settings.model.trust_remote_code)
        except TrakError as error:
            said = str(error).replace(str(folder), f"checkpoints.existing: {existing}")
            raise TrakError(said) from error
    return [str(config.id2label[i]) for i in sorted(config.id2label)]


def _train_texts(settings: Settings) -> list[str]:
    dataset = settings.dataset
    rows = load_split(
        dataset.path,
        dataset.name,
        dataset.data_files,
        dataset.train_split,
        settings.seed,
        revision=dataset.revision,
    )
    columns = text_columns(dataset.path, dataset.name, dataset.text)
    for column in columns:
        require_column(rows, column, f"split `{dataset.train_split}`", "dataset.text")
    return [text for column in columns for text in rows[column] if isinstance(text, str)]
