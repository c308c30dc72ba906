"""Random projections of per-sample gradients, from p numbers to k."""

from trak_steps.projection.base import Projection, Sketch
from trak_steps.projection.dense import DenseProjection

__all__ = ["DenseProjection", "Projection", "Sketch"]
