"""Block sizes that `execution.memory_mb` allows, or an error that says what it would have to be."""

from trak_steps.config import Settings
from trak_steps.errors import TrakError
from trak_steps.kernel.blocks import Cost

MIB = 2**20


def bytes_allowed(settings: Settings) -> int:
    """What a step may use for arrays."""
    return settings.execution.memory_mb * MIB


def cells_at_once(settings: Settings, cost: Cost, what: str, advice: str = "") -> int:
    """As :func:`rows_at_once`, a power of two: so blocks are whole cells, and chunks whole blocks."""
    return 1 << (rows_at_once(settings, cost, what, advice).bit_length() - 1)


def rows_at_once(settings: Settings, cost: Cost, what: str, advice: str = "") -> int:
    """The rows of a block.

    Args:
        settings: of the run.
        cost: of the computation.
        what: is held, for the message.
        advice: what else would do.

    Raises:
        TrakError: if the memory is too little to begin with.
    """
    if cost.least > bytes_allowed(settings):
        raise TrakError(
            f"execution.memory_mb: {settings.execution.memory_mb} cannot hold {what}; set it to at "
            f"least {-(-cost.least // MIB)}{advice}"
        )
    return cost.at_once(bytes_allowed(settings))
