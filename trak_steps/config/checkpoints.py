"""The settings of checkpoints: how many are trained here, or which are imported."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator

from trak_steps.config.section import Fraction, Section, Text
from trak_steps.model.trainer_folder import (
    checkpoints_of,
    has_checkpoints,
    is_checkpoint,
    require_folders,
    require_one_model,
)

MOST_TRAININGS = 10000

# In the places of errors these mark which kind a value is: no part of a setting's name.
_NAMES, _MAPPING = "<names>", "<mapping>"
_ALONE, _TRAINING = "<classifier>", "<training>"
TAGS = (_NAMES, _MAPPING, _ALONE, _TRAINING)
_Kept = Annotated[
    Annotated[dict[Text, Fraction], Field(min_length=1), Tag(_MAPPING)]
    | Annotated[list[Text], Field(min_length=1), Tag(_NAMES)],
    Discriminator(lambda value: _MAPPING if isinstance(value, dict) else _NAMES),
]


class ImportedTraining(Section):
    """A training elsewhere, and which of its checkpoints are imported."""

    run: Text = Field(
        description="a folder that `transformers.Trainer` wrote, with `checkpoint-*` folders within"
    )
    checkpoints: _Kept | None = Field(
        None,
        description="which of them; null: all. A mapping says at which fraction of the training each "
        "is, where no `trainer_state.json` does",
    )

    @field_validator("checkpoints", mode="before")
    @classmethod
    def _numbers_are_fractions(cls, value: Any) -> Any:
        """``true`` is none, though Python would take it for 1."""
        if isinstance(value, dict) and any(isinstance(fraction, bool) for fraction in value.values()):
            raise ValueError("should not be true or false; a fraction of the training is a number")
        return value

    @model_validator(mode="after")
    def _fractions_are_known(self, info: ValidationInfo) -> Self:
        """Once, when the settings are read: jobs are told what was found."""
        if isinstance(self.checkpoints, dict):
            ordered = {name: float(f"{fraction:g}") for name, fraction in self.checkpoints.items()}
            ordered = dict(sorted(ordered.items(), key=lambda of: of[1]))
            if len(set(ordered.values())) < len(ordered):
                raise ValueError(f"checkpoints: gives a fraction twice: {ordered}"[:400])
            if not (info.context and info.context.get("partial")):
                require_folders(_folder(self.run), list(ordered))
                require_one_model(_folder(self.run), list(ordered))
        else:
            ordered = checkpoints_of(_folder(self.run), self.checkpoints)
        object.__setattr__(self, "checkpoints", ordered)  # the model is frozen for its users
        return self

    @property
    def fractions(self) -> dict[str, float]:
        """At which fraction of the training each checkpoint is, in this order."""
        assert isinstance(self.checkpoints, dict)
        return self.checkpoints


def _folder(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:  # the home of nobody
        return Path(name)


_Classes = Annotated[
    Annotated[dict[Text, Text], Tag(_MAPPING)] | Annotated[list[Text], Tag(_NAMES)],
    Discriminator(lambda value: _MAPPING if isinstance(value, dict) else _NAMES),
]
Imported = Annotated[
    Annotated[Text, Tag(_ALONE)] | Annotated[ImportedTraining, Tag(_TRAINING)],
    Discriminator(lambda value: _TRAINING if isinstance(value, (dict, ImportedTraining)) else _ALONE),
]


class CheckpointSettings(Section):
    """The checkpoints whose features are averaged."""

    count: int = Field(3, ge=1, le=MOST_TRAININGS, description="trainings, each with a seed of its own")
    keep: list[Fraction] = Field(
        [0.125, 0.25, 1.0],
        min_length=1,
        description="what is kept of each training as checkpoints, as fractions of its steps; the "
        "early ones predict what rows do better than the end does",
    )
    existing: list[Imported] = Field(
        [],
        description="imported, and nothing is trained: `{run: folder}` for a training, of which "
        "`transformers.Trainer` left checkpoints in a folder; or a folder or hub id of a single "
        "classifier, or of a PEFT adapter of one (`org/name@revision` for a commit, tag or branch)",
    )
    classes: _Classes = Field(
        [],
        description="with `existing`, for classifiers that name their classes otherwise than the data, "
        "or not at all (`LABEL_0`, `LABEL_1`): a mapping from their names to the data's; or the data's "
        "in the order of the classifiers' outputs",
    )

    @property
    def in_all(self) -> int:
        """How many checkpoints there are, of all trainings."""
        kept = [1 if isinstance(entry, str) else len(entry.fractions) for entry in self.existing]
        return sum(kept) or self.count * len(self.keep)

    @field_validator("classes", mode="before")
    @classmethod
    def _numbers_are_names(cls, values: Any) -> Any:
        """Classes that are integers in the data are called by them."""

        def named(value: Any) -> Any:
            return str(value) if type(value) is int else value

        if isinstance(values, dict):
            return {named(theirs): named(own) for theirs, own in values.items()}
        return [named(value) for value in values] if isinstance(values, list) else values

    @model_validator(mode="after")
    def _nothing_twice(self) -> Self:
        if len({f"{fraction:g}" for fraction in self.keep}) != len(self.keep):
            raise ValueError(f"names the same fraction twice: {self.keep}")
        alone = [entry for entry in self.existing if isinstance(entry, str)]
        trainings = [entry.run for entry in self.existing if isinstance(entry, ImportedTraining)]
        for name, other in _same_folder(alone):
            raise ValueError(f"existing: {name!r:.200} and {other!r:.200} are the same checkpoint")
        for name, other in _same_folder(trainings):
            raise ValueError(f"existing: {name!r:.200} and {other!r:.200} are the same training")
        # The end that a Trainer saves in its own folder is a checkpoint of the training, too.
        places = [path.parent if is_checkpoint(path) else path for path in map(_folder, alone)]
        of_a_training = [str(path) for path in places if has_checkpoints(path)]
        for folder, _ in _same_folder([*trainings, *of_a_training]):
            raise ValueError(
                f"existing: names several checkpoints of one training, {folder!r:.200}, as if they were "
                f"trainings of their own; name it once, as {{run: {folder:.200}}}"
            )
        names = list(self.classes.values() if isinstance(self.classes, dict) else self.classes)
        if len(set(names)) != len(names):
            raise ValueError(f"classes: names a class twice: {', '.join(names)!r:.200}")
        return self


def _same_folder(names: list[str]) -> Iterator[tuple[str, str]]:
    """Pairs of names of one hub id, or of one local folder."""
    seen: dict[str, str] = {}
    for name in names:
        try:
            folder = Path(name).expanduser()
            meant = str(folder.resolve()) if folder.is_dir() else name
        except (OSError, RuntimeError):  # too long for a path, or the home of nobody
            meant = name
        if meant in seen:
            yield seen[meant], name
        seen[meant] = name
