"""Fine-tune one classifier so that a killed training goes on where it last saved.

The work folder holds one unfinished training:

* ``recipe.json``: what is being trained. Another recipe in the same folder starts afresh.
* ``trainer/checkpoint-N`` with a manifest: a save to resume from. Without one, or if a file differs
  from it, the save was interrupted or the disk damaged it, and it is not used.
* ``kept/<fraction>``: the weights at a fraction of the training, with a manifest, complete or absent.
"""

import json
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from trak_steps.console.progress import counter, say
from trak_steps.errors import TrakError
from trak_steps.model.moments import OPTIMIZER, moments_of, save_moments
from trak_steps.model.recipe import Recipe, trainer_of, training_rows
from trak_steps.store.atomic import complete_or_absent, explain_disk_errors, flush
from trak_steps.store.folder import check_folder
from trak_steps.store.manifest import Manifest

now = time.monotonic


def finetune(
    make_model: Callable[[], PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    rows: pa.Table,
    recipe: Recipe,
    *,
    fractions: Iterable[float],
    work: Path,
    identity: dict[str, Any],
    save_minutes: float,
    cpu: bool,
) -> dict[float, Path]:
    """Train, or go on training, until all wanted fractions of the training are kept.

    Args:
        make_model: builds the model to train; called after the random numbers are seeded.
        tokenizer: pads the batches.
        rows: the tokenised train set, with a column ``label``; n of them.
        recipe: how to train.
        fractions: of the training, at whose ends the weights are kept. The training stops at the last.
        work: the folder of the unfinished training.
        identity: JSON values that, with the recipe, say what is trained.
        save_minutes: how often to save what the training can be resumed from; 0 after every step.
        cpu: do not use a GPU.

    Returns:
        For each fraction, a folder with the model (below ``work``).

    Raises:
        TrakError: if a fraction was not kept.
    """
    steps = recipe.steps(len(rows))
    kept = {fraction: work / "kept" / f"{fraction:g}" for fraction in fractions}
    with explain_disk_errors(work):
        _start_or_resume(work, {**identity, "recipe": recipe.identity})
        _drop_damaged(kept.values())
        at = {
            recipe.step_at(fraction, len(rows)): folder
            for fraction, folder in kept.items()
            if not folder.is_dir()
        }
        if not at:
            say("trained already")
            return kept
        set_seed(recipe.seed)
        trainer = trainer_of(
            make_model(),
            tokenizer,
            training_rows(rows),
            recipe,
            work / "trainer",
            cpu=cpu,
            callbacks=[_Keep(at), _SaveByTime(60 * save_minutes), _MarkSaves()],
            save_strategy="no",
            save_total_limit=2,  # the older save stays until the newer one is marked complete
        )
        last = _last_complete(work / "trainer", before=min(at))
        say(f"training {max(at)} of {steps} steps" + (f", resuming at {last.name}" if last else ""))
        done = int(last.name.removeprefix("checkpoint-")) if last else 0
        with _counted(trainer, max(at) - done):
            trainer.train(resume_from_checkpoint=str(last) if last else None)
    missing = [fraction for fraction, folder in kept.items() if not folder.is_dir()]
    if missing:
        raise TrakError(f"{work}: the weights at {missing[0]:g} were not kept; delete it and rerun")
    return kept


@contextmanager
def _counted(trainer: Trainer, steps: int) -> Iterator[None]:
    """Say in a log how many steps are done; a terminal has the Trainer's own bar."""
    if sys.stderr.isatty():
        yield
        return
    with counter(steps, "trained", "step") as advance:
        trainer.add_callback(_Count(advance))
        yield


class _Count(TrainerCallback):  # type: ignore[misc]
    """Counts steps."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance = advance

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Runs after each step."""
        self._advance(1)


class _Keep(TrainerCallback):  # type: ignore[misc]
    """Saves the model where a wanted fraction ends, and stops the training after the last."""

    def __init__(self, at: Mapping[int, Path]) -> None:
        self._at = at

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Runs after each step."""
        if path := self._at.get(state.global_step):
            with complete_or_absent(path) as folder:
                kwargs["model"].save_pretrained(folder)
                save_moments(folder, *moments_of(kwargs["optimizer"], kwargs["model"]), OPTIMIZER)
                Manifest("kept").save(folder)
        if state.global_step >= max(self._at):
            control.should_training_stop = True


class _SaveByTime(TrainerCallback):  # type: ignore[misc]
    """Asks for a save when some time has passed since the last."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._saved = now()

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Runs after each step."""
        moment = now()
        if moment - self._saved >= self._seconds and not control.should_training_stop:
            control.should_save = True
            self._saved = moment


class _MarkSaves(TrainerCallback):  # type: ignore[misc]
    """Marks a save as whole, once everything of it is written."""

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Runs after the Trainer wrote the last file of a save."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        flush(folder)
        Manifest("training").save(folder)
        flush(folder)


def _start_or_resume(work: Path, identity: dict[str, Any]) -> None:
    text = json.dumps(identity, indent=1, sort_keys=True)
    file = work / "recipe.json"
    if file.is_file() and file.read_bytes() == text.encode():
        return
    if work.exists():
        say(f"{work} holds another training, which is dropped")
        shutil.rmtree(work)
    work.mkdir(parents=True)
    with complete_or_absent(file) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _drop_damaged(folders: Iterable[Path]) -> None:
    """What is damaged is retrained."""
    for folder in folders:
        try:
            if folder.is_dir():
                check_folder(folder, "kept")
        except TrakError as error:
            say(f"trained again: {error}")
            shutil.rmtree(folder)


def _last_complete(folder: Path, before: int) -> Path | None:
    """The newest whole save of an earlier step; interrupted, damaged and later ones are removed."""
    named = [(re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in folder.glob("*")]
    saves = [(int(number[1]), path) for number, path in named if number]
    last: Path | None = None
    for step, path in sorted(saves):
        try:
            check_folder(path, "training")
        except TrakError as error:
            say(f"not resumed from: {error}")
            shutil.rmtree(path)
            continue
        if step < before:
            last = path
        else:  # what is wanted of an earlier step cannot be had from it
            shutil.rmtree(path)
    return last
