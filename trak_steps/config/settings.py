"""Every setting there is: its name, default, bounds and a line on what it does.

The schema in ``workflow/schemas`` and the table in ``config/README.md`` are generated from these
models, so here, and in ``checkpoints.py`` beside, is the only place where a setting is defined.
"""

import re
from typing import Any, ClassVar, Literal, Self

from pydantic import (
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from trak_steps.config.checkpoints import CheckpointSettings
from trak_steps.config.section import Name, Section, TargetName, Text
from trak_steps.data.patterns import BUILDERS
from trak_steps.kernel import blocks
from trak_steps.model.device import is_device, refused_use
from trak_steps.model.schedule import falling_together, training_steps

# The model output that needs no module of the user's.
BUILT_IN = "text_classification"
# The model and the rows that come with this project.
DEMO = "demo"
MIB = 2**20


# What a preset sets, where the settings themselves do not.
SCORING: dict[str, dict[str, dict[str, Any]]] = {
    "default": {},
    "reference": {
        "checkpoints": {"keep": [1.0]},
        "features": {"metric": "none"},
        "kernel": {"ridge": 0.0},
        "scores": {"loss_weight": "mean", "loss_weight_power": 1.0, "balance": False},
    },
}
EVALUATION: dict[str, dict[str, dict[str, Any]]] = {
    "quick": {},
    "thorough": {
        "lds": {"subsets": 100, "repeats": 5},
        "removal": {"targets": 20, "repeats": 5},
    },
}


def _laid_under(preset: dict[str, dict[str, Any]], values: Any) -> Any:
    """Settings with what a preset sets, and they do not."""
    if not isinstance(values, dict):
        return values
    given = dict(values)
    for section, defaults in preset.items():
        inner = given.get(section, {})
        if isinstance(inner, dict):
            given[section] = {**defaults, **inner}
    return given


class DatasetSettings(Section):
    """Where the rows come from."""

    ADDED: ClassVar[frozenset[str]] = frozenset({"revision"})

    path: Text = Field(
        DEMO,
        description="what `datasets.load_dataset` takes: a hub id, `parquet`, `csv` or `json`; "
        "or `demo`, the built-in set",
    )
    name: Text | None = Field(None, description="the dataset's configuration, such as `qnli` of `glue`")
    revision: Text | None = Field(
        None, description="of a hub id: a commit, tag or branch; null: the newest, which is recorded"
    )
    data_files: dict[Text, Text | list[Text]] | None = Field(
        None, description="local files of each split, for `parquet`, `csv` and `json` (JSON lines)"
    )
    train_split: Text = Field("train", description="the split that holds the train set")
    text: list[Text] | None = Field(
        None,
        min_length=1,
        max_length=2,
        description="the text column or the two text columns; null: those of a known GLUE task "
        "or of the demo",
    )
    label: Text = Field("label", description="the label column: integers, strings or floats")
    row_id: Text | None = Field(
        None,
        description="a column of unique integers that names rows; null: the place in the split",
    )
    group: Text | None = Field(
        None,
        description="a column that says which known group a row belongs to (the demo's `fact`); "
        "the summary then reports how many top proponents share the target's group",
    )
    train_size: int | None = Field(
        None, ge=1, description="how many train rows to take; null: all of them"
    )
    sample: Literal["random", "first"] = Field(
        "random",
        description="which rows to take when a size is given: a seeded random sample, whose first "
        "rows stay the same when the size grows, or the first rows of the split",
    )
    flip_labels: float = Field(
        0.0, ge=0.0, lt=1.0, description="share of train labels replaced by a wrong one, recorded"
    )

    @model_validator(mode="before")
    @classmethod
    def _one_column_as_a_list(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("text"), str):
            return {**values, "text": [values["text"]]}
        return values

    @model_validator(mode="after")
    def _files_have_no_revision(self) -> Self:
        if self.revision is not None and self.path in BUILDERS:
            raise ValueError(f"revision is of a hub id, and path is {self.path}; leave it out")
        return self

    @model_validator(mode="after")
    def _texts_are_no_labels(self) -> Self:
        columns = self.text or []
        if len(set(columns)) < len(columns):
            raise ValueError(f"text names the column {columns[0]!r} twice")
        # `label` itself is refused with the other names that the prepared rows use.
        if self.label in columns and self.label != "label":
            raise ValueError(
                f"text names {self.label!r}, the label column; a model would read the answer"
            )
        return self


class TargetSettings(Section):
    """One named set of targets."""

    split: Text = Field("validation", description="the split that holds the targets")
    size: int | None = Field(None, ge=1, description="how many rows to take; null: all of them")


class ModelSettings(Section):
    """The model that is fine-tuned."""

    ADDED: ClassVar[frozenset[str]] = frozenset({"revision"})

    name_or_path: Text = Field(
        DEMO,
        description="a hub id or a folder (safetensors only); or `demo`, a small BERT and a "
        "WordPiece vocabulary made from the train texts. With `checkpoints.existing`, the model that "
        "those were fine-tuned from: its tokenizer serves where they have none",
    )
    revision: Text | None = Field(
        None, description="of a hub id: a commit, tag or branch; null: the newest, which is recorded"
    )
    max_length: int = Field(128, ge=4, le=131072, description="tokens a row is cut to")
    trust_remote_code: bool = Field(
        False, description="run Python code that comes with the model's folder"
    )

    @model_validator(mode="after")
    def _the_demo_has_no_revision(self) -> Self:
        if self.revision is not None and self.name_or_path == DEMO:
            raise ValueError("revision is of a hub id, and name_or_path is demo; leave it out")
        return self


class FinetuneSettings(Section):
    """The training recipe, handed to `transformers.Trainer`."""

    ADDED: ClassVar[frozenset[str]] = frozenset({"precision", "accumulation", "recompute"})

    epochs: float = Field(3.0, gt=0.0, le=10000.0, description="passes over the train set")
    batch_size: int = Field(16, ge=1, description="rows a step")
    learning_rate: float = Field(5.0e-5, gt=0.0, description="peak of the linear schedule")
    weight_decay: float = Field(0.01, ge=0.0, description="AdamW's weight decay")
    warmup_ratio: float = Field(
        0.06, ge=0.0, le=1.0, description="share of the steps in which the rate rises"
    )
    dropout: float | None = Field(
        None,
        ge=0.0,
        lt=1.0,
        description="the model's dropout probabilities in training, all of them; null: its own",
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32",
        description="what is computed in, below float32 by autocast; weights and the optimizer's state "
        "stay in float32 (`float16` on a GPU only)",
    )
    accumulation: int = Field(
        1,
        ge=1,
        description="parts that the rows of a step are run in, one after the other: less memory, and "
        "the same step but for dropout and rounding; in the last step of an epoch, which may have fewer "
        "rows, each part counts alike",
    )
    recompute: bool = Field(
        False,
        description="gradient checkpointing: compute the layers' states once more in the backward pass, "
        "which takes a third more time, and far less memory",
    )

    @model_validator(mode="after")
    def _parts_are_alike(self) -> Self:
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"accumulation: {self.accumulation} parts of batch_size: {self.batch_size} rows would "
                "not be alike; set it to a divisor"
            )
        return self


class ParameterSettings(Section):
    """Which parameters the gradient is taken over."""

    include: list[Text] = Field(
        [".*"], min_length=1, description="regular expressions; a parameter must match one in full"
    )
    exclude: list[Text] = Field([], description="regular expressions; a match drops a parameter")

    @field_validator("include", "exclude")
    @classmethod
    def _regular_expressions(cls, patterns: list[str]) -> list[str]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except (re.error, OverflowError, RecursionError) as error:
                raise ValueError(f"{pattern!r:.80} is not a regular expression: {error}") from None
        return patterns


class FeatureSettings(Section):
    """How a row's gradient becomes its features."""

    dim: int = Field(1024, ge=1, le=1048576, description="k, the numbers kept of each gradient")
    projection: Literal["fold", "rademacher", "normal"] = Field(
        "fold",
        description="`fold`, a count sketch that never forms the gradient; or a dense random matrix "
        "of signs or of normal numbers, some ten to thirty times slower",
    )
    metric: Literal["adam", "none"] = Field(
        "adam",
        description="what gradients are compared in: `adam`, the metric of the optimizer, by its second "
        "moments at the checkpoint; or `none`, as they are",
    )
    gradients: Literal["hooks", "functional"] = Field(
        "hooks",
        description="how per-sample gradients are computed: `hooks`, at the cost of a backward pass; "
        "or `functional`, in full with `torch.func`, rows of one length at a time",
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32",
        description="what the model's pass is computed in, below float32 by autocast (`float16` on a "
        "GPU only; on a CPU `bfloat16` is slower unless the processor has it); features are added up "
        "in float32",
    )
    parameters: ParameterSettings = Field(
        default_factory=ParameterSettings,
        description="which parameters the gradient is taken over",
    )
    model_output: Text = Field(
        BUILT_IN,
        description="the function whose gradient is taken: `text_classification`, or "
        "`module:Class` for your own",
    )
    loss_temperature: float = Field(
        1.0, gt=0.0, description="temperature of the softmax in the loss weight"
    )
    dtype: Literal["float32", "float16"] = Field(
        "float32", description="how features are stored; float16 fails if a number overflows"
    )
    shard_size: int | None = Field(
        None,
        ge=1,
        description="train rows of a store, and of a job; null: a power of two, found from the model's "
        "size and the rows' length, so that a job has minutes of work",
    )
    codec: Literal["none", "zstd", "blosc", "bitround"] = Field(
        "none", description="compression of the stored features; `bitround` drops mantissa bits"
    )
    keep_bits: int = Field(
        10, ge=1, le=23, description="mantissa bits that `bitround` keeps (float32 has 23)"
    )

    @field_validator("model_output")
    @classmethod
    def _known_or_your_own(cls, name: str) -> str:
        if name != BUILT_IN and not re.fullmatch(r"[\w.]+:\w+", name):
            raise ValueError(f"should be `{BUILT_IN}` or `module:Class`; given {name!r}")
        return name

    @model_validator(mode="after")
    def _functional_runs_in_float32(self) -> Self:
        if self.gradients == "functional" and self.precision != "float32":
            raise ValueError(
                f"precision: {self.precision} needs `gradients: hooks`; `functional` is float32 only"
            )
        return self


class KernelSettings(Section):
    """The kernel and its ridge."""

    ridge: float | None = Field(
        None,
        ge=0.0,
        description="added to the kernel's diagonal, in units of its mean diagonal entry; null: found "
        "for each checkpoint by `kernel.effective_dof`; 0 is the reference's rule, noise unless there "
        "are far more rows than dimensions",
    )
    effective_dof: float = Field(
        0.15,
        gt=0.0,
        lt=1.0,
        description="share of the kernel's degrees of freedom that the ridge leaves, where none is set: "
        "trace(K (K + ridge)⁻¹) over the rank of K",
    )


class ScoreSettings(Section):
    """How features become scores."""

    top: int = Field(20, ge=1, description="proponents and opponents listed for each target")
    loss_weight: Literal["own", "mean"] = Field(
        "mean",
        description="which loss weight 1 − p multiplies a train row's score: `own`, each checkpoint's "
        "part by its own, once they are balanced; or `mean`, the whole by the mean over checkpoints, as "
        "in the reference",
    )
    loss_weight_power: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="power of the train rows' loss weight: 1 is the reference's rule, 0 leaves it out",
    )
    balance: bool = Field(
        True,
        description="let checkpoints count alike: each one's scores for a target are brought to the "
        "same root mean square before they are averaged",
    )
    matrix: Literal["auto", "none", "scores", "scores_and_std"] = Field(
        "auto",
        description="keep every train row's score for every target, to read in Python: `scores`; "
        "`scores_and_std`, also how far trainings differ; `none`, the lists of the strongest alone; "
        "`auto`: `scores_and_std` where that takes at most a gigabyte",
    )
    rows_per_job: int | None = Field(
        None, ge=1, description="train rows that a job scores, in whole shards; null: minutes of work"
    )
    targets_per_job: int | None = Field(
        None, ge=1, description="targets that a job scores; null: up to 8,192"
    )


class LdsSettings(Section):
    """The linear datamodeling score."""

    subsets: int = Field(
        24, ge=8, le=10000, description="random subsets of the train set that models are trained on"
    )
    share: float = Field(0.5, gt=0.0, lt=1.0, description="of the train set in each subset")
    repeats: int = Field(
        2, ge=2, le=1000, description="trainings on each subset, with seeds of their own, averaged"
    )


class RemovalSettings(Section):
    """Training without the rows that scores name."""

    targets: int = Field(
        6, ge=1, description="of the first target set: those whose top proponents are left out, in turn"
    )
    rows: int = Field(20, ge=1, description="left out for each: its proponents, or as many others")
    repeats: int = Field(3, ge=2, le=1000, description="trainings for each, with seeds of their own")


class EvaluationSettings(Section):
    """Whether the scores can be trusted: `snakemake evaluation`."""

    preset: Literal["quick", "thorough"] = Field(
        "quick",
        description="`thorough`: 100 subsets and 20 targets, five trainings each, unless set",
    )
    lds: LdsSettings = Field(default_factory=LdsSettings, description="the linear datamodeling score")
    removal: RemovalSettings = Field(
        default_factory=RemovalSettings, description="training without the rows that scores name"
    )
    suspects: int = Field(100, ge=1, description="train rows listed whose labels look wrong")
    bootstrap: int = Field(1000, ge=100, le=100000, description="resamples behind each 95 % interval")
    models_per_job: int = Field(8, ge=1, description="models that a job retrains, one by one")
    retrain_imported: bool = Field(
        False,
        description="with `checkpoints.existing`: `finetune` says how they were trained from "
        "`model.name_or_path`, so LDS and removal can be measured, once models trained so are seen to "
        "be like them",
    )

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, values: Any) -> Any:
        named = values.get("preset") if isinstance(values, dict) else None
        return _laid_under(EVALUATION.get(str(named), {}), values)


class ExecutionSettings(Section):
    """How to compute, never what: a change reruns nothing."""

    ADDED: ClassVar[frozenset[str]] = frozenset({"rows_per_job"})

    device: Text = Field("auto", description="`auto`, `cpu`, `cuda` or `cuda:1`")
    threads: int = Field(1, ge=1, description="CPU threads of a job that trains, featurizes or scores")
    save_minutes: float = Field(
        5.0,
        ge=0.0,
        description="minutes after which a training saves what it can be resumed from; 0: after every "
        "step",
    )
    batch_tokens: int | None = Field(
        None,
        ge=1,
        description="tokens, with padding, that `hooks` runs together; null: what memory allows, found "
        "by running the longest row once",
    )
    memory_mb: int = Field(
        4096,
        ge=64,
        description="memory for gradients, features and scores, beside the model; on a GPU "
        "batches take most of what is free, whatever is set here",
    )
    rows_per_job: int | None = Field(
        None,
        ge=1,
        description="train rows that a job sums kernels over, or looks for wrong labels in, in whole "
        "shards; null: all, or minutes of work where all would take more than an hour",
    )

    @field_validator("device")
    @classmethod
    def _name_of_a_device(cls, name: str) -> str:
        if not is_device(name):
            raise ValueError(f"should be `auto`, `cpu`, `cuda` or `cuda:1`; given {name!r:.80}")
        return name


class Settings(Section):
    """One run of the pipeline."""

    run: Name = Field(DEMO, description="the run's name; its results are in `results/<run>/`")
    seed: int = Field(0, ge=0, lt=2**31, description="every random choice derives from it")
    scoring: Literal["default", "reference"] = Field(
        "default",
        description="`reference`: the rule of the reference implementation, no ridge and the whole loss "
        "weight at the end of each training and plain gradients, where `checkpoints`, `features`, "
        "`kernel` and `scores` do not say otherwise",
    )
    dataset: DatasetSettings = Field(default_factory=DatasetSettings)
    targets: dict[TargetName, TargetSettings] = Field(
        default_factory=lambda: {"validation": TargetSettings(size=100)},
        min_length=1,
        description="named sets of targets",
    )
    model: ModelSettings = Field(default_factory=ModelSettings)
    checkpoints: CheckpointSettings = Field(default_factory=CheckpointSettings)
    finetune: FinetuneSettings = Field(default_factory=FinetuneSettings)
    features: FeatureSettings = Field(default_factory=FeatureSettings)
    kernel: KernelSettings = Field(default_factory=KernelSettings)
    scores: ScoreSettings = Field(default_factory=ScoreSettings)
    evaluation: EvaluationSettings = Field(default_factory=EvaluationSettings)
    execution: ExecutionSettings = Field(default_factory=ExecutionSettings)

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, values: Any) -> Any:
        named = values.get("scoring") if isinstance(values, dict) else None
        return _laid_under(SCORING.get(str(named), {}), values)

    @model_validator(mode="after")
    def _kernel_can_be_inverted(self) -> Self:
        size = self.dataset.train_size
        if self.kernel.ridge == 0 and size is not None and size < self.features.dim:
            raise ValueError(
                f"kernel.ridge is 0, and {size} train rows (dataset.train_size) cannot span "
                f"{self.features.dim} dimensions (features.dim); set kernel.ridge above 0"
            )
        return self

    @model_validator(mode="after")
    def _device_is_able(self) -> Self:
        of = {"features": self.features.precision, "finetune": self.finetune.precision}
        for section, precision in of.items():
            if refused := refused_use(self.execution.device, precision=precision, of=section):
                raise ValueError(refused)
        return self

    @model_validator(mode="after")
    def _memory_holds_kernels(self, info: ValidationInfo) -> Self:
        """Refuse what the kernel and score steps would refuse, after hours of features."""
        if info.context and info.context.get("partial"):
            return self
        dim, memory = self.features.dim, self.execution.memory_mb
        checkpoints = self.checkpoints.in_all
        needed = -(-blocks.needed(dim, checkpoints) // MIB)
        if needed <= memory:
            return self
        widest = blocks.widest(memory * MIB, checkpoints)
        of_kernels = -(-blocks.needed(dim, 1) // MIB)
        if of_kernels > memory:
            held = f"kernels of {dim} × {dim} numbers (features.dim)"
        else:
            held = f"a target of {checkpoints} checkpoints with {dim} dimensions (features.dim)"
        raise ValueError(
            f"execution.memory_mb: {memory} cannot hold {held}; set it to at least {needed}"
            + (f", or features.dim to at most {widest}" if widest else "")
        )

    @model_validator(mode="after")
    def _fit_together(self, info: ValidationInfo) -> Self:
        """What only all settings of a run tell; a step in a workflow is given those that it reads."""
        if info.context and info.context.get("partial"):
            return self
        if self.checkpoints.existing:
            if self.evaluation.retrain_imported and self.model.name_or_path == DEMO:
                raise ValueError(
                    "evaluation.retrain_imported: needs model.name_or_path, the model that "
                    "checkpoints.existing were fine-tuned from"
                )
            return self
        if self.evaluation.retrain_imported:
            raise ValueError(
                "evaluation.retrain_imported: is of imported checkpoints, and "
                "checkpoints.existing names none"
            )
        if self.checkpoints.classes:
            raise ValueError(
                "checkpoints.classes: is of imported checkpoints, and checkpoints.existing names none"
            )
        refused = refused_use(self.execution.device, trains=True)
        n = self.dataset.train_size
        if n is not None and not refused:
            recipe = self.finetune
            steps = training_steps(n, epochs=recipe.epochs, batch_size=recipe.batch_size)
            refused = falling_together(self.checkpoints.keep, steps)
        rows = self.evaluation.removal.rows
        # The default is no choice: a run of so few rows may want no evaluation.
        chosen = rows != RemovalSettings.model_fields["rows"].default
        if n is not None and chosen and rows >= n and not refused:
            refused = (
                f"evaluation.removal.rows: {rows} of {n} train rows (dataset.train_size) cannot be left "
                "out; set it lower"
            )
        if refused:
            raise ValueError(refused)
        return self
