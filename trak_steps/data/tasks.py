"""The text columns of the data sets that are known by name."""

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
