"""Texts of unknown origin, made fit to be printed."""


def plain_text(text: str, longest: int) -> str:
    """A text on one line, cut, with control characters and other unprintable ones spelled out."""
    cut = text if len(text) <= longest else text[: longest - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
