"""Measure a machine with a run's own model and rows, in less than a minute."""

import hashlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
    TrainerCallback,
)
from transformers import logging as transformers_logging

from trak_steps.config import Settings
from trak_steps.data.prepared import PreparedRows
from trak_steps.errors import TrakError
from trak_steps.gradients.moments import mean_squares
from trak_steps.gradients.rows import Row
from trak_steps.gradients.source import tables_of
from trak_steps.model.device import pick_device
from trak_steps.model.forward import forward
from trak_steps.model.load import load_for_training, load_tokenizer
from trak_steps.model.moments import EPSILON
from trak_steps.model.recipe import Recipe, trainer_of, training_rows
from trak_steps.planning.costs import longest_of
from trak_steps.planning.facts import Facts
from trak_steps.planning.machine import KINDS, Machine
from trak_steps.projection.metric import TABLES_SHARE, metric_of
from trak_steps.run.featurizer import Featurizer, parameters_of
from trak_steps.run.model_inputs import read_rows
from trak_steps.run.model_output import load_model_output

# Parameters, times tokens, of the larger of two steps: some seconds of one core.
A_STEP = 2.0e10
STEPS = 3
# Seconds for features, and for the forward pass.
A_WHILE = 3.0
PRODUCT = 1024
LEAST = 1e-6
DISK = 2**25


def measure(facts: Facts, *, elsewhere: bool = False) -> Machine:
    """Measure this machine.

    Args:
        facts: of the run; where its model is not at hand, another is measured in its place.
        elsewhere: whether other machines run the jobs; then this one may lack their GPU.

    Raises:
        TrakError: if the device is not there, or the current folder cannot be written to.
    """
    settings = facts.settings
    torch.set_num_threads(settings.execution.threads)
    # What a model brings to its first training is no news of a sample.
    transformers_logging.set_verbosity_error()
    without = elsewhere and not torch.cuda.is_available()
    device = torch.device("cpu") if without else pick_device(settings.execution.device)
    starts = {kind: _start(module) for kind, (_, module) in KINDS.items()}
    model, rows, (step, train) = _model(facts, device)
    model.to(device)
    model.eval()
    feature, check = _features(settings, model, rows)
    single, double = (_product(dtype, device) for dtype in (torch.float32, torch.float64))
    read, write = _disk()
    return Machine(
        threads=settings.execution.threads,
        device=device.type,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        starts=starts,
        step=step,
        train=train,
        feature=feature,
        forward=_repeated(lambda some: forward(model, some), rows),
        check=check,
        single=single,
        double=double,
        spectrum=_spectrum(min(settings.features.dim, PRODUCT)),
        read=read,
        write=write,
    )


def _start(module: str) -> float:
    """Seconds until a step's command has loaded what it needs; the second time, as from the cache."""
    code = f"import trak_steps.cli, {module}"
    found = []
    for _ in range(2):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        found.append(time.perf_counter() - start)
    return min(found)


def _model(facts: Facts, device: torch.device) -> tuple[PreTrainedModel, list[Row], tuple[float, float]]:
    """The run's model, or one in its place; rows; and what a training step takes."""
    settings = facts.settings
    if facts.sample is None:
        config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12)
        config.intermediate_size = 4 * config.hidden_size
        config.max_position_embeddings = max(512, *facts.lengths)
        model = BertForSequenceClassification(config).to(device)
        rows = [Row([7] * length, i % 2) for i, length in enumerate([*facts.lengths] * 16)]
        sizes = (4, 16)
        seconds = [_plain_step(model, rows[:size]) for size in sizes]
        return model, rows, _parts(seconds, [sum(map(len, rows[:size])) for size in sizes])
    train = PreparedRows.load(facts.sample.train)
    model = load_for_training(
        facts.sample.model,
        outputs=train.outputs,
        label_names=train.label_names,
        dropout=settings.finetune.dropout,
        trust_remote_code=settings.model.trust_remote_code,
    )
    return model, read_rows(train, 0, len(facts.lengths)), _train(facts, model, train, device)


def _train(
    facts: Facts, model: PreTrainedModel, train: PreparedRows, device: torch.device
) -> tuple[float, float]:
    """Seconds of a step of the run's own recipe, and of a token in it; of a large model, with few rows.

    By steps of two sizes, since what the optimizer does takes as long for one row as for many.
    """
    most = max(2, int(A_STEP / (facts.parameters * facts.tokens)))
    larger = max(1, min(facts.settings.finetune.batch_size, most, len(train) // 2))
    sizes = (max(1, larger // 2), larger)
    lengths = np.asarray(facts.lengths, np.float64)
    seconds = [_steps(facts, model, train, size, device) for size in sizes]
    return _parts(seconds, [size * longest_of(lengths, size) for size in sizes])


def _parts(seconds: Sequence[float], tokens: Sequence[float]) -> tuple[float, float]:
    """What two steps took, as a part that each has and one for each token."""
    less, more = seconds
    if tokens[1] > tokens[0] and more > less:
        of_token = (more - less) / (tokens[1] - tokens[0])
        # Where the difference is mostly noise, all of it is the tokens'.
        if of_token * tokens[1] < more:
            return more - of_token * tokens[1], of_token
    return LEAST, more / tokens[1]


def _steps(
    facts: Facts, model: PreTrainedModel, train: PreparedRows, size: int, device: torch.device
) -> float:
    """Seconds of a step of so many rows."""
    recipe = Recipe(**facts.settings.finetune.model_dump(), seed=0)
    recipe = replace(recipe, batch_size=size, accumulation=1, epochs=STEPS * size / len(train))
    timer = _Timer()
    settings = facts.settings.model
    assert facts.sample is not None
    tokenizer = load_tokenizer(
        facts.sample.model, max_length=settings.max_length, trust_remote_code=settings.trust_remote_code
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(
            model,
            tokenizer,
            training_rows(train.table),
            recipe,
            Path(folder),
            cpu=device.type == "cpu",
            callbacks=[timer],
            save_strategy="no",
        )
        trainer.train()
        # What follows is not of the training's precision.
        trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    return median(timer.seconds)


class _Timer(TrainerCallback):  # type: ignore[misc]
    """Times steps, but for the first."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._last: float | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Runs after each step."""
        now = time.perf_counter()
        if self._last is not None:
            self.seconds.append(now - self._last)
        self._last = now


def _plain_step(model: PreTrainedModel, rows: Sequence[Row]) -> float:
    optimizer = torch.optim.AdamW(model.parameters())
    ids = torch.tensor([row.input_ids for row in rows], device=model.device)
    labels = torch.tensor([row.label for row in rows], device=model.device)

    def step() -> None:
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return _timed(step)


def _features(settings: Settings, model: PreTrainedModel, rows: list[Row]) -> tuple[float, float]:
    """Seconds of a token's gradient, and of what comes before the first."""
    chosen = settings.features
    output = load_model_output(chosen.model_output, chosen.loss_temperature)
    model.requires_grad_(True)
    parameters = parameters_of(model, chosen)
    ordered = sorted(rows, key=len)
    metric = None
    if chosen.metric == "adam":
        moments = mean_squares(model, output, rows[:2])
        tables = tables_of(model)
        metric = metric_of(parameters, moments, epsilon=EPSILON, tables=tables, share=TABLES_SHARE)
    start = time.perf_counter()
    extremes = ordered[0], ordered[-1]
    featurizer = Featurizer.of(settings, "0", model, output, parameters, metric, extremes)
    featurizer.check()
    check = time.perf_counter() - start

    def featurize(some: list[Row]) -> None:
        for _ in featurizer.features([(some, np.arange(len(some)))]):
            pass

    return _repeated(featurize, rows), check


def _repeated(action: Callable[[list[Row]], Any], rows: list[Row]) -> float:
    """Seconds of a token: of a few rows, then of as many as a while has room for."""
    few = rows[: max(2, min(8, len(rows)))]
    action(few[:2])
    start = time.perf_counter()
    action(few)
    spent = time.perf_counter() - start
    some = rows[: max(len(few), min(len(rows), int(len(few) * A_WHILE / spent)))]
    start = time.perf_counter()
    action(some)
    return (time.perf_counter() - start) / sum(map(len, some))


def _timed(action: Callable[[], Any], repeats: int = 3) -> float:
    """Median seconds, after a first time."""
    found = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        action()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return median(found[1:])


def _product(dtype: torch.dtype, device: torch.device) -> float:
    """Multiply-adds a second."""
    left = torch.randn(PRODUCT, PRODUCT, dtype=dtype, device=device)
    return PRODUCT**3 / _timed(lambda: left @ left)


def _spectrum(k: int) -> float:
    """Seconds of the eigenvalues of a kernel, for each k³."""
    values = torch.randn(k, k, dtype=torch.float64)
    kernel = values @ values.T
    return _timed(lambda: torch.linalg.eigvalsh(kernel), 1) / k**3


def _disk() -> tuple[float, float]:
    """Bytes a second: read, with their digest, from what was just written; and written through."""
    values = np.random.default_rng(0).bytes(DISK)
    try:
        file = tempfile.NamedTemporaryFile(dir=".")  # noqa: SIM115 - closed below
    except OSError as error:
        raise TrakError(f"{Path.cwd()}: cannot be written ({error.strerror or error})") from error
    with file:
        start = time.perf_counter()
        file.write(values)
        file.flush()
        written = time.perf_counter() - start
        start = time.perf_counter()
        hashlib.sha256(Path(file.name).read_bytes()).digest()
        read = time.perf_counter() - start
    return DISK / read, DISK / written
