"""A checkpoint, opened to take gradients: everything in the settings that decides what they are.

The step, plans and explanations of new texts open it here, so that all have the same features.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from trak_steps.config import Settings
from trak_steps.config.settings import BUILT_IN, FeatureSettings
from trak_steps.console.progress import say
from trak_steps.data.prepared import PreparedRows
from trak_steps.errors import TrakError
from trak_steps.gradients.budget import tokens_at_once
from trak_steps.gradients.errors import GradientError, Remedy
from trak_steps.gradients.featurize import Features, compute_features
from trak_steps.gradients.functional import FunctionalGradients
from trak_steps.gradients.hooks import HookedGradients
from trak_steps.gradients.model_output import ModelOutput
from trak_steps.gradients.rows import Row
from trak_steps.gradients.selfcheck import check_gradients
from trak_steps.gradients.source import GradientSource, select_parameters, tables_of
from trak_steps.model.load import load_classifier
from trak_steps.model.moments import load_moments
from trak_steps.projection import DenseProjection, FoldProjection, Parameter, Projection
from trak_steps.projection.base import projection_key, total_size
from trak_steps.projection.metric import TABLES_SHARE, Metric, metric_of
from trak_steps.run.layout import Layout
from trak_steps.run.model_output import check_model_output, load_model_output

MIB = 2**20
HELPS = {
    Remedy.WHOLE_GRADIENTS: "set features.gradients: functional, or drop the parameter by "
    "features.parameters.exclude",
    Remedy.DENSE_PROJECTION: "set features.projection: rademacher, and please report it",
    Remedy.OTHER_PARAMETERS: "see features.parameters.include and features.parameters.exclude",
    Remedy.SHORTER_ROWS: "set a smaller model.max_length, or use a machine with more memory",
    Remedy.WIDER_NUMBERS: "set features.dtype: float32",
}


@contextmanager
def naming_settings() -> Iterator[None]:
    """Where gradients cannot be had, say which setting helps."""
    try:
        yield
    except GradientError as error:
        raise TrakError(f"{error}; {HELPS[error.remedy]}") from error


@dataclass(frozen=True)
class Featurizer:
    """Takes the gradients of rows by one model, and projects them.

    Attributes:
        settings: of the run.
        model: in evaluation mode, on the device to compute on.
        output: what the gradient is of.
        source: takes it.
        projection: to k dimensions.
        extremes: the shortest and the longest row that it was opened for.
    """

    settings: Settings
    model: PreTrainedModel
    output: ModelOutput
    source: GradientSource
    projection: Projection
    extremes: tuple[Row, Row]

    @classmethod
    def open(
        cls,
        layout: Layout,
        settings: Settings,
        checkpoint: str,
        rows: PreparedRows,
        extremes: tuple[Row, Row],
        device: torch.device,
    ) -> Self:
        """By a checkpoint of a run.

        Args:
            layout: where the run's outputs lie.
            settings: of the run.
            checkpoint: its name; its files are taken as they are.
            rows: a prepared set, for its classes.
            extremes: the shortest and the longest row of those that features are wanted of.
            device: where to compute.

        Raises:
            TrakError: if the checkpoint cannot be loaded, or a custom model output does not work.
            GradientError: if no parameter is chosen.
        """
        chosen, folder = settings.features, layout.checkpoint(checkpoint)
        model = load_classifier(
            folder,
            outputs=rows.outputs,
            device=device,
            trust_remote_code=settings.model.trust_remote_code,
            # For torch.func, since the fused ones have no batching rule and would run row by row.
            attention="eager" if chosen.gradients == "functional" else None,
        )
        output = _model_output(chosen, rows)
        parameters = parameters_of(model, chosen)
        metric = _metric(folder, model, parameters) if chosen.metric == "adam" else None
        return cls.of(settings, checkpoint, model, output, parameters, metric, extremes)

    @classmethod
    def of(
        cls,
        settings: Settings,
        checkpoint: str,
        model: PreTrainedModel,
        output: ModelOutput,
        parameters: Sequence[Parameter],
        metric: Metric | None,
        extremes: tuple[Row, Row],
    ) -> Self:
        """By any model.

        Args:
            settings: of the run.
            checkpoint: the name that decides the projection.
            model: in evaluation mode, where to compute.
            output: what the gradient is of.
            parameters: what it is taken over.
            metric: to compare gradients in; none is the plain one.
            extremes: the shortest and the longest row of those that features are wanted of.
        """
        chosen, memory = settings.features, settings.execution.memory_mb * MIB
        shortest, longest = extremes
        source: GradientSource
        if chosen.gradients == "functional":
            source = FunctionalGradients(model, output, parameters, memory // 4)
        else:
            tokens = settings.execution.batch_tokens or tokens_at_once(
                model, longest, _batch_memory(model.device, memory)
            )
            precision: torch.dtype = getattr(torch, chosen.precision)
            source = HookedGradients(
                model, output, parameters, tokens=tokens, example=shortest, precision=precision
            )
        projection = _projection(chosen, parameters, settings.seed, checkpoint, model.device, metric)
        return cls(settings, model, output, source, projection, extremes)

    @property
    def size(self) -> int:
        """p, how many numbers a gradient has."""
        return total_size(self.source.parameters)

    def check(self) -> None:
        """Compare gradients and projection with plain autograd, by the shortest and the longest row.

        Raises:
            GradientError: if they differ.
            TrakError: if the model cannot be run in the precision that the settings ask for.
        """
        precision: torch.dtype = getattr(torch, self.settings.features.precision)
        try:
            check_gradients(
                self.model, self.output, self.source, self.projection, self.extremes, precision
            )
        except RuntimeError as error:
            if precision == torch.float32 or isinstance(error, torch.OutOfMemoryError):
                raise
            # Some models' own code adds or fills numbers of two types, which torch refuses.
            raise TrakError(
                f"features.precision: {type(self.model).__name__} cannot be run in "
                f"{self.settings.features.precision} ({error}); set features.precision: float32"
            ) from error

    def features(
        self,
        windows: Iterable[tuple[Sequence[Row], NDArray[np.int64]]],
        advance: Callable[[int], None] = lambda _: None,
    ) -> Iterator[Features]:
        """Features of rows, window by window: see :func:`~.gradients.featurize.compute_features`.

        Args:
            windows: tokenised rows and their ids.
            advance: is told how many rows were done.
        """
        return compute_features(
            self.source,
            self.projection,
            windows,
            memory=self.settings.execution.memory_mb * MIB // 2,
            dtype=self.settings.features.dtype,
            advance=advance,
            say=say,
        )


def parameters_of(model: PreTrainedModel, chosen: FeatureSettings) -> list[Parameter]:
    """The parameters that gradients are taken over. Raises GradientError if there are none."""
    return select_parameters(model, chosen.parameters.include, chosen.parameters.exclude)


def _model_output(chosen: FeatureSettings, rows: PreparedRows) -> ModelOutput:
    if chosen.model_output == BUILT_IN and not rows.label_names:
        raise TrakError(
            f"features.model_output: {BUILT_IN} needs classes, the labels are numbers; name your own "
            "`module:Class` (see docs/custom_output.md)"
        )
    output = load_model_output(chosen.model_output, chosen.loss_temperature)
    check_model_output(output, chosen.model_output, rows.outputs)
    return output


def _batch_memory(device: torch.device, memory: int) -> int:
    """Bytes for a batch: a share of the setting, or most of what a GPU has free."""
    if device.type != "cuda":
        return memory // 4
    free, _ = torch.cuda.mem_get_info(device)
    return int(0.8 * free)


def _metric(folder: Path, model: PreTrainedModel, parameters: Sequence[Parameter]) -> Metric:
    """The optimizer's metric at a checkpoint, from what was kept beside its weights."""
    moments, epsilon = load_moments(folder, parameters)
    return metric_of(parameters, moments, epsilon=epsilon, tables=tables_of(model), share=TABLES_SHARE)


def _projection(
    chosen: FeatureSettings,
    parameters: Sequence[Parameter],
    seed: int,
    checkpoint: str,
    device: torch.device,
    metric: Metric | None,
) -> Projection:
    """The projection of a checkpoint's gradients that the settings choose."""
    key = projection_key(seed, checkpoint)
    if chosen.projection == "fold":
        return FoldProjection(parameters, dim=chosen.dim, key=key, device=device, metric=metric)
    return DenseProjection(
        chosen.projection,
        size=total_size(parameters),
        dim=chosen.dim,
        key=key,
        device=device,
        metric=metric,
    )
