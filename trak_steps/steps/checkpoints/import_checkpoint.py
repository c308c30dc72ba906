"""Step ``import-checkpoint``: bring a classifier that was fine-tuned elsewhere into the run."""

from pathlib import Path

import torch

from trak_steps.config import Settings
from trak_steps.console.progress import say
from trak_steps.data.labels import Labels, in_the_order_of, some
from trak_steps.data.prepared import PreparedRows
from trak_steps.errors import TrakError
from trak_steps.model.fetch import fetch_model
from trak_steps.model.load import load_classifier, load_tokenizer
from trak_steps.run.layout import Layout
from trak_steps.store.atomic import complete_or_absent
from trak_steps.store.folder import check_folder
from trak_steps.store.manifest import Manifest

# Raised by hand when the numbers that this step writes change: see CONTRIBUTING.md.
VERSION = 1


def run(layout: Layout, settings: Settings, checkpoint: int, named: str) -> None:
    """Write ``checkpoints/<m>`` after checking that it fits the data.

    Args:
        layout, settings: of the run.
        checkpoint: its number.
        named: the folder or hub id that is brought along.
    """
    train = PreparedRows.open(layout.train)
    model = check_folder(layout.model, "model")
    trust = settings.model.trust_remote_code
    path = layout.checkpoint(str(checkpoint))
    with complete_or_absent(path) as folder:
        fetch_model(named, folder, setting="checkpoints.existing", weights=True, trust_remote_code=trust)
        try:
            classifier = load_classifier(
                folder,
                outputs=train.outputs,
                device=torch.device("cpu"),
                trust_remote_code=trust,
            )
        except TrakError as error:
            raise TrakError(str(error).replace(str(folder), f"checkpoints.existing: {named}")) from error
        _require_same_order(train, classifier.config.id2label, named)
        _require_same_vocabulary(folder, layout.model, named, trust)
        Manifest(
            "checkpoint",
            made_from={
                layout.name(layout.model): model.content,
                f"{layout.name(train.path)}#classes": train.classes,
            },
            version=VERSION,
            details={"source": named, "checkpoint": path.name},
        ).save(folder)
    say(f"wrote {path}")


def _require_same_order(train: PreparedRows, id2label: dict[int, str], named: str) -> None:
    """The labels are encoded once, in the order of the first checkpoint's classes."""
    labels = Labels(tuple(range(train.outputs)) if train.label_names else None, tuple(train.label_names))
    ordered = in_the_order_of(labels, id2label, named)
    if ordered.names != labels.names:
        raise TrakError(
            f"checkpoints.existing: {named} has its classes in the order {some(ordered.names)}, "
            f"the first checkpoint in the order {some(labels.names)}; score them in separate runs"
        )


def _require_same_vocabulary(folder: Path, base: Path, named: str, trust: bool) -> None:
    """The rows are tokenised once, with the tokenizer of the first checkpoint."""
    vocabularies = [
        load_tokenizer(path, max_length=1, trust_remote_code=trust).get_vocab()
        for path in (folder, base)
    ]
    if vocabularies[0] != vocabularies[1]:
        raise TrakError(
            f"checkpoints.existing: {named} has another vocabulary than the first checkpoint; "
            "score them in separate runs"
        )
