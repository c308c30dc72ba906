"""Fine-tune one classifier so that a killed run goes on where it last saved.

The work folder holds one training run's unfinished state:

* ``recipe.json``: what is being trained. Another recipe in the same folder starts afresh.
* ``trainer/checkpoint-N`` with a manifest: a state to resume from. Without one, or if a file differs
  from it, the save was interrupted or the disk damaged it, and the state is not used.
* ``states/<fraction>``: kept states of the model, with a manifest, complete or absent.
"""

import json
import math
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
from transformers import (
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from trak_steps.errors import TrakError
from trak_steps.model.recipe import Recipe, training_arguments, training_rows
from trak_steps.progress import say
from trak_steps.store.atomic import complete_or_absent, flush, saying_what_the_disk_refused
from trak_steps.store.folder import check_folder
from trak_steps.store.manifest import Manifest


def finetune(
    make_model: Callable[[], PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    rows: pa.Table,
    recipe: Recipe,
    *,
    work: Path,
    identity: dict[str, Any],
    save_every: float,
    cpu: bool,
) -> dict[float, Path]:
    """Train, or go on training.

    Args:
        make_model: builds the model to train; called after the random numbers are seeded.
        tokenizer: pads the batches.
        rows: the tokenised train set, with a column ``label``.
        recipe: how to train.
        work: the folder of the unfinished state.
        identity: JSON values that, with the recipe, say what is trained.
        save_every: how often to save a state to resume from, as a share of the steps.
        cpu: do not use a GPU.

    Returns:
        For each kept fraction, a folder with the model's state (below ``work``).

    Raises:
        TrakError: if a state was not kept.
    """
    steps = recipe.steps(len(rows))
    states = {fraction: work / "states" / f"{fraction:g}" for fraction in recipe.keep}
    with saying_what_the_disk_refused(work):
        _start_or_resume(work, {**identity, "recipe": _plain(recipe)})
        _drop_if_damaged(work, states.values())
        if all(state.is_dir() for state in states.values()):
            say("trained already")
            return states
        set_seed(recipe.seed)
        trainer = Trainer(
            model=make_model(),
            args=training_arguments(
                recipe,
                steps,
                work / "trainer",
                cpu=cpu,
                # The older save stays until the newer one is marked complete.
                save_strategy="steps",
                save_steps=max(1, math.ceil(save_every * steps)),
                save_total_limit=2,
            ),
            train_dataset=training_rows(rows),
            data_collator=DataCollatorWithPadding(tokenizer),
            callbacks=[_KeepStates(states, steps), _MarkSaves()],
        )
        last = _last_complete(work / "trainer")
        say(f"training {steps} steps" + (f", resuming at {last.name}" if last else ""))
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    missing = [fraction for fraction, folder in states.items() if not folder.is_dir()]
    if missing:
        raise TrakError(f"{work}: the state at {missing[0]:g} was not kept; delete it and rerun")
    return states


class _KeepStates(TrainerCallback):  # type: ignore[misc]
    """Saves the model when the training has come to a kept fraction."""

    def __init__(self, states: dict[float, Path], steps: int) -> None:
        self._at = [(max(1, round(fraction * steps)), path) for fraction, path in states.items()]

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Save where a kept fraction ends with this step."""
        for step, path in self._at:
            if step == state.global_step:
                with complete_or_absent(path) as folder:
                    kwargs["model"].save_pretrained(folder)
                    Manifest("state").save(folder)


class _MarkSaves(TrainerCallback):  # type: ignore[misc]
    """Marks a saved state as whole, once everything of it is written."""

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Runs after the Trainer wrote the last file of a state."""
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
        say(f"{work} holds the state of another training run, which is dropped")
        shutil.rmtree(work)
    work.mkdir(parents=True)
    with complete_or_absent(file) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _drop_if_damaged(work: Path, states: Iterable[Path]) -> None:
    """A kept state that is damaged cannot be had again from a later state of the training."""
    try:
        for state in states:
            if state.is_dir():
                check_folder(state, "state")
    except TrakError as error:
        say(f"trained from the beginning: {error}")
        for folder in (work / "states", work / "trainer"):
            shutil.rmtree(folder, ignore_errors=True)


def _last_complete(folder: Path) -> Path | None:
    """The newest whole state; interrupted and damaged ones are removed."""
    named = [(re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in folder.glob("*")]
    states = [(int(number[1]), path) for number, path in named if number]
    last: Path | None = None
    for _, path in sorted(states):
        try:
            check_folder(path, "training")
        except TrakError as error:
            say(f"not resumed from: {error}")
            shutil.rmtree(path)
        else:
            last = path
    return last


def _plain(recipe: Recipe) -> dict[str, Any]:
    return {**vars(recipe), "keep": list(recipe.keep)}
