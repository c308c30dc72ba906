"""Step ``import-checkpoint``: bring a classifier that was fine-tuned elsewhere into the run."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from trak_steps.config import Settings
from trak_steps.console.progress import say
from trak_steps.data.labels import Labels, in_the_order_of, names_no_classes, some
from trak_steps.data.prepared import PreparedRows
from trak_steps.errors import TrakError
from trak_steps.evaluation.class_order import other_order
from trak_steps.gradients.model_output import TextClassification
from trak_steps.gradients.moments import mean_squares
from trak_steps.gradients.rows import Row
from trak_steps.gradients.source import select_parameters
from trak_steps.model.fetch import fetch_model
from trak_steps.model.files import ADAPTER, SECOND_MOMENTS, tokenizer_files
from trak_steps.model.files import OPTIMIZER as OPTIMIZER_FILE
from trak_steps.model.forward import forward
from trak_steps.model.load import load_classifier, load_tokenizer
from trak_steps.model.moments import EPSILON, GRADIENTS, OPTIMIZER, load_moments, save_moments
from trak_steps.model.optimizer_file import WITHOUT, moments_in
from trak_steps.model.trainer_folder import has_checkpoints
from trak_steps.run.layout import MOMENT_ROWS, Layout
from trak_steps.run.model_inputs import read_rows
from trak_steps.store.atomic import complete_or_absent
from trak_steps.store.folder import check_folder
from trak_steps.store.manifest import Manifest

# Raised by hand when the numbers that this step writes change: see CONTRIBUTING.md.
VERSION = 2
# Train rows that the order of the classes is tried on, read some at a time.
ROWS = 256
AT_ONCE = 8


def run(layout: Layout, settings: Settings, checkpoint: str, named: str) -> None:
    """Write ``checkpoints/<m>`` after checking that it fits the data.

    Args:
        layout, settings: of the run.
        checkpoint: its name.
        named: the folder or hub id that is imported.
    """
    train = PreparedRows.open(layout.train)
    model = check_folder(layout.model, "model")
    trust = settings.model.trust_remote_code
    path = layout.checkpoint(checkpoint)
    with complete_or_absent(path) as folder:
        revisions = fetch_model(
            named, folder, setting="checkpoints.existing", weights=True, trust_remote_code=trust
        )
        if has_checkpoints(Path(named).expanduser()):
            say(
                f"{named} holds checkpoint-* folders, and is imported as the end of a training alone; "
                f"{{run: {named}}} brings them in, by which scores are better"
            )
        try:
            classifier = load_classifier(
                folder,
                outputs=train.outputs,
                device=torch.device("cpu"),
                trust_remote_code=trust,
            )
        except TrakError as error:
            raise TrakError(str(error).replace(str(folder), f"checkpoints.existing: {named}")) from error
        labels = _require_same_order(train, classifier.config.id2label, named)
        _require_same_vocabulary(folder, layout.model, named, trust)
        if labels.classes is not None:
            _check_order_on_rows(classifier, train, labels, named)
        made_from = {
            layout.name(layout.model): model.content,
            f"{layout.name(train.path)}#classes": train.classes,
        }
        if _brought_moments(folder):
            _check_moments(folder, classifier, named)
        elif (optimizer := Path(named).expanduser() / OPTIMIZER_FILE).is_file():
            save_moments(folder, *moments_in(optimizer, classifier), OPTIMIZER)
            _check_moments(folder, classifier, named, optimizer)
        else:
            stop = min(MOMENT_ROWS, len(train))
            _estimate_moments(folder, classifier, train, stop, named)
            made_from[f"{layout.name(train.path)}#0:{stop}"] = train.content_of(0, stop)
        parameters = sum(parameter.numel() for parameter in classifier.parameters())
        Manifest(
            "checkpoint",
            made_from=made_from,
            version=VERSION,
            details={
                "source": named,
                "checkpoint": path.name,
                "parameters": parameters,
                **({"revisions": revisions} if revisions else {}),
            },
        ).save(folder)
    say(f"wrote {path}")


class _Value:
    """A regression's model output, for its gradient's sake: the value itself."""

    def output(self, logits: Tensor, labels: Tensor) -> Tensor:  # noqa: ARG002 - ModelOutput's
        """The first logit, [b]."""
        return logits[:, 0]

    def loss_weight(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Not asked for."""
        raise NotImplementedError


def _brought_moments(folder: Path) -> bool:
    """Whether the optimizer's second moments came along; of an adapted model, those of the adapter."""
    if (folder / ADAPTER).is_dir():
        (folder / SECOND_MOMENTS).unlink(missing_ok=True)  # its base's
        if (folder / ADAPTER / SECOND_MOMENTS).is_file():
            (folder / ADAPTER / SECOND_MOMENTS).rename(folder / SECOND_MOMENTS)
    return (folder / SECOND_MOMENTS).is_file()


def _estimate_moments(
    folder: Path, classifier: PreTrainedModel, train: PreparedRows, rows: int, named: str
) -> None:
    """Write second moments of the gradients of the first train rows."""
    say(
        f"{named} has no optimizer's second moments, for features.metric: they are estimated by the "
        f"gradients of {rows} train rows"
    )
    output = TextClassification() if train.label_names else _Value()
    try:
        moments = mean_squares(classifier, output, read_rows(train, 0, rows))
    except (IndexError, RuntimeError) as error:
        raise _cannot_read(named, error) from error
    if not all(torch.isfinite(of.rows).all() for of in moments.values()):
        raise TrakError(
            f"checkpoints.existing: {named}: the gradient of one of the first {rows} train rows is not "
            "finite"
        )
    save_moments(folder, moments, EPSILON, GRADIENTS)


def _check_moments(
    folder: Path, classifier: PreTrainedModel, named: str, optimizer: Path | None = None
) -> None:
    """Refuse second moments that no metric can be made of, also those of an optimizer's own file."""
    try:
        load_moments(folder, select_parameters(classifier, [".*"], []), advice=WITHOUT)
    except TrakError as error:
        said = str(error).replace(str(folder), f"checkpoints.existing: {named}")
        raise TrakError(said.replace(SECOND_MOMENTS, OPTIMIZER_FILE) if optimizer else said) from error


def _require_same_order(train: PreparedRows, id2label: dict[int, str], named: str) -> Labels:
    """The labels are encoded once, in the order of the first checkpoint's classes; gives those."""
    labels = Labels(tuple(range(train.outputs)) if train.label_names else None, tuple(train.label_names))
    order = train.manifest.settings.get("classes") or ()
    ordered = in_the_order_of(labels, id2label, named, order)
    if ordered.names != labels.names:
        raise TrakError(
            f"checkpoints.existing: {named} has its classes in the order {some(ordered.names)}, "
            f"the first checkpoint in the order {some(labels.names)}; score them in separate runs"
        )
    return labels


def _order_is_set(train: PreparedRows) -> bool:
    """Whether `checkpoints.classes` gave the order of the classes."""
    return bool(train.manifest.settings.get("classes"))


def _check_order_on_rows(
    classifier: PreTrainedModel, train: PreparedRows, labels: Labels, named: str
) -> None:
    """Hold the order of the classes against what the classifier says of some train rows.

    Raises:
        TrakError: if another order fits far better, and nobody gave this one; or if the classifier
            cannot read the rows.
    """
    rows, sure = _some_rows(train)
    numbers = np.array([row.label for row in rows], np.int64)
    try:
        predictions = forward(classifier, rows).logits.argmax(1).numpy()
    except (IndexError, RuntimeError) as error:
        raise _cannot_read(named, error) from error
    found = other_order(numbers[sure], predictions[sure], len(labels.names))
    if found is None:
        return
    better = [labels.names[i] for i in found.classes]
    said = (
        f"of {sure.sum()} train rows it gets {found.accuracy:.0%} right if its outputs are "
        f"{some(labels.names)}, in this order, and {found.better:.0%} if they are {some(better)}"
    )
    if _order_is_set(train) or not names_no_classes(classifier.config.id2label, labels):
        given = "checkpoints.classes" if _order_is_set(train) else "id2label in its config.json"
        say(
            f"warning: checkpoints.existing: {named}: is the order of its classes, from {given}, right? "
            f"{said[0].upper()}{said[1:]}"
        )
        return
    raise TrakError(
        f"checkpoints.existing: {named} does not name its classes (LABEL_0, …), and {said}; say in "
        "checkpoints.classes which order it has: the data's class names, one for each output"
    )


def _cannot_read(named: str, error: Exception) -> TrakError:
    """Of rows with more tokens, or others, than a model has embeddings for."""
    words = str(error).strip().split("\n")[0]
    return TrakError(
        f"checkpoints.existing: {named} cannot read the train rows ({words[:200]}); does it read "
        "fewer tokens than the first checkpoint? set model.max_length lower"
    )


def _some_rows(train: PreparedRows) -> tuple[list[Row], NDArray[np.bool_]]:
    """Train rows from all over the set, which may be sorted by label, and which labels are unflipped."""
    n = len(train)
    starts = [0] if n <= ROWS else np.linspace(0, n - AT_ONCE, ROWS // AT_ONCE).astype(int).tolist()
    ends = [n] if n <= ROWS else [start + AT_ONCE for start in starts]
    rows: list[Row] = []
    flipped: list[NDArray[np.bool_]] = []
    for start, end in zip(starts, ends, strict=True):
        rows += read_rows(train, start, end)
        flipped.append(train.column("flipped", start, end))
    return rows, ~np.concatenate(flipped)


def _require_same_vocabulary(folder: Path, base: Path, named: str, trust: bool) -> None:
    """The rows are tokenised once, with the tokenizer of the first checkpoint, or of its base.

    A checkpoint without one is taken to be of the same.
    """
    if not tokenizer_files(folder):
        return
    vocabularies = [
        load_tokenizer(path, max_length=1, trust_remote_code=trust).get_vocab()
        for path in (folder, base)
    ]
    if vocabularies[0] != vocabularies[1]:
        raise TrakError(
            f"checkpoints.existing: {named} has another vocabulary than the first checkpoint; "
            "score them in separate runs"
        )
