"""What can be wrong with gradients, without the names of settings: the step says which one helps."""

from enum import Enum, auto

from trak_steps.errors import TrakError


class Remedy(Enum):
    """What would help."""

    WHOLE_GRADIENTS = auto()  # formed in full, or without the parameter in question
    DENSE_PROJECTION = auto()
    OTHER_PARAMETERS = auto()
    SHORTER_ROWS = auto()
    WIDER_NUMBERS = auto()


class GradientError(TrakError):
    """Gradients, or features made of them, cannot be had in this way."""

    def __init__(self, message: str, remedy: Remedy) -> None:
        super().__init__(message)
        self.remedy = remedy
