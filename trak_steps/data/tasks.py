"""The text columns of a data set: those that the settings name, or those known by its name."""

from collections.abc import Sequence

from trak_steps.errors import TrakError

# Columns that the prepared rows use themselves.
RESERVED = frozenset({"row", "label", "label_name", "flipped", "group", "input_ids", "token_type_ids"})

GLUE: dict[str, tuple[str, ...]] = {
    "cola": ("sentence",),
    "sst2": ("sentence",),
    "mrpc": ("sentence1", "sentence2"),
    "qqp": ("question1", "question2"),
    "stsb": ("sentence1", "sentence2"),
    "mnli": ("premise", "hypothesis"),
    "mnli_matched": ("premise", "hypothesis"),
    "mnli_mismatched": ("premise", "hypothesis"),
    "qnli": ("question", "sentence"),
    "rte": ("sentence1", "sentence2"),
    "wnli": ("sentence1", "sentence2"),
    "ax": ("premise", "hypothesis"),
}


def known_text_columns(path: str, name: str | None) -> tuple[str, ...] | None:
    """The text columns of a GLUE task or of the demo; none for any other data set."""
    if path == "demo":
        return ("question", "sentence")
    if path in ("glue", "nyu-mll/glue") and name:
        return GLUE.get(name)
    return None


def text_columns(path: str, name: str | None, text: Sequence[str] | None) -> list[str]:
    """The text columns to read, one or two.

    Raises:
        TrakError: if none are named or known, or one has a name that the prepared rows use.
    """
    columns = list(text or known_text_columns(path, name) or ())
    if not columns:
        raise TrakError(
            "dataset.text: is not set, and the text columns of this data set are not known; "
            "name one column or two"
        )
    reserved = RESERVED.intersection(columns)
    if reserved:
        raise TrakError(
            f"dataset.text: `{min(reserved)}` is a name that the prepared rows use themselves; rename "
            "the column"
        )
    return columns
