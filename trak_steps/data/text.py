"""What counts as a text."""

import unicodedata


def is_empty(text: str) -> bool:
    """Whether a reader sees nothing: spaces, control characters and zero-width ones are no text."""
    return not any(map(_is_seen, text))


def _is_seen(letter: str) -> bool:
    return (letter.isprintable() and letter != " ") or unicodedata.category(letter) in ("Co", "Cn")
