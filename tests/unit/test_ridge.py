"""The ridge that is chosen from the kernel alone."""

import numpy as np
import pytest
import torch

from trak_steps.errors import TrakError
from trak_steps.kernel.ridge import ridge_for, spectrum


def _kernel(n: int, k: int, seed: int = 0) -> torch.Tensor:
    draw = np.random.default_rng(seed)
    features = draw.normal(size=(n, k)) * 10.0 ** draw.uniform(-3, 3, k)
    return torch.from_numpy(features.T @ features)


@pytest.mark.parametrize("share", [0.05, 0.2, 0.8])
@pytest.mark.parametrize(("n", "k"), [(400, 30), (30, 80)])
def test_the_ridge_leaves_the_share_of_the_degrees_of_freedom(share: float, n: int, k: int) -> None:
    """Held to the definition, trace(K (K + λ)⁻¹) over the rank, with an inverse."""
    kernel = _kernel(n, k)
    ridge = ridge_for(spectrum(kernel), share)
    ridged = kernel + ridge * kernel.diagonal().mean() * torch.eye(k, dtype=torch.float64)
    effective_dof = torch.trace(kernel @ torch.linalg.inv(ridged)).item()
    assert effective_dof == pytest.approx(share * min(n, k), rel=1e-3)


def test_the_scale_of_the_features_does_not_matter() -> None:
    kernel = _kernel(50, 20)
    assert ridge_for(spectrum(1e6 * kernel), 0.2) == pytest.approx(ridge_for(spectrum(kernel), 0.2))


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        (torch.zeros(3, 3, dtype=torch.float64), "the kernel is zero"),
        (torch.full((3, 3), torch.nan, dtype=torch.float64), "not finite"),
    ],
)
def test_kernels_without_a_spectrum_are_refused(kernel: torch.Tensor, words: str) -> None:
    with pytest.raises(TrakError, match=words):
        spectrum(kernel)
