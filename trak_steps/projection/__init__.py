"""Random projections of per-sample gradients, from p numbers to k."""

from trak_steps.projection.base import Parameter, Projection, Sketch
from trak_steps.projection.dense import DenseProjection
from trak_steps.projection.fold import FoldProjection

__all__ = ["DenseProjection", "FoldProjection", "Parameter", "Projection", "Sketch"]
