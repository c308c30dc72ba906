"""Feature stores of given numbers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trak_steps.store.features import new_features
from trak_steps.store.manifest import Manifest


def save_features(
    path: Path,
    features: NDArray[np.floating],
    columns: Mapping[str, NDArray[Any]],
    manifest: Manifest,
    codec: Mapping[str, Any],
) -> None:
    """Write a feature store whose features are all there, [n, k]."""
    n, dim = features.shape
    with new_features(path, (n, dim), str(features.dtype), manifest, codec) as writer:
        writer.add(features, columns)
