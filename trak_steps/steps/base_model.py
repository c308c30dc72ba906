"""Step ``model``: bring the model to fine-tune into the run, or make the demo's.

Where checkpoints are brought along, only the tokenizer and configuration of the first are needed.
"""

from trak_steps.config import Settings
from trak_steps.data.source import load_split
from trak_steps.data.tasks import known_text_columns
from trak_steps.errors import TrakError
from trak_steps.layout import Layout
from trak_steps.model.demo import make_demo_model
from trak_steps.model.fetch import fetch_model
from trak_steps.progress import say
from trak_steps.store.atomic import complete_or_absent
from trak_steps.store.manifest import Manifest, digest_files


def run(layout: Layout, settings: Settings) -> None:
    """Write ``model/``: configuration, tokenizer and, unless from scratch, weights."""
    model, existing = settings.model, settings.checkpoints.existing
    with complete_or_absent(layout.model) as folder:
        if existing:
            fetch_model(
                existing[0],
                folder,
                setting="checkpoints.existing",
                weights=False,
                trust_remote_code=model.trust_remote_code,
            )
        elif model.name_or_path == "demo":
            make_demo_model(_train_texts(settings), folder)
        else:
            fetch_model(
                model.name_or_path,
                folder,
                setting="model.name_or_path",
                weights=True,
                trust_remote_code=model.trust_remote_code,
            )
        Manifest("model", content=digest_files(list(folder.iterdir()))).save(folder)
    say(f"wrote {layout.model}")


def _train_texts(settings: Settings) -> list[str]:
    dataset = settings.dataset
    rows = load_split(dataset.path, dataset.name, dataset.data_files, dataset.train_split, settings.seed)
    columns = dataset.text or known_text_columns(dataset.path, dataset.name) or ()
    missing = [column for column in columns if column not in rows.column_names]
    if missing or not columns:
        raise TrakError(
            f"dataset.text: {'there is no column ' + missing[0] if missing else 'is not set'}; "
            f"the split `{dataset.train_split}` has {', '.join(rows.column_names)}"
        )
    return [text for column in columns for text in rows[column] if isinstance(text, str)]
