"""What some rows of a prepared set are, by digest; read by the workflow, so it needs little to load."""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trak_steps.errors import TrakError

DIGESTS = "digests.npy"


def load_digests(folder: Path) -> NDArray[np.uint8]:
    """The digest of each row, [n, 32]. Raises TrakError if the file cannot be read."""
    try:
        digests = np.load(folder / DIGESTS, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise TrakError(f"{folder / DIGESTS}: cannot be read ({error}); rerun prepare") from None
    if digests.ndim != 2 or digests.shape[1] != 32 or digests.dtype != np.uint8:
        raise TrakError(f"{folder / DIGESTS}: does not hold digests; rerun prepare")
    found: NDArray[np.uint8] = digests
    return found


def rows_content(digests: NDArray[np.uint8], classes: str) -> str:
    """The digest of rows, given each one's and that of their classes."""
    digest = hashlib.sha256(classes.encode())
    digest.update(np.ascontiguousarray(digests).tobytes())
    return digest.hexdigest()
