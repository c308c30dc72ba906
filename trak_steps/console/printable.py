"""Text from files and settings, made safe to show in a terminal."""

import json
import re
from typing import Any

# Control characters, which a terminal obeys; and those that turn, join or hide the text around them.
_UNSEEN = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\xad\\u200b\\u200e\\u200f\\u2028-\\u202e\\u2060-\\u206f"
    "\\ufeff\\ufff9-\\ufffb\\ud800-\\udfff\\U000e0000-\\U000e007f]"
)


def printable(text: str, limit: int | None = None, keep: str = "") -> str:
    """The text with characters that no one can see written out, such as ``\\x1b`` for escape.

    Args:
        text: any text, lone surrogates included.
        limit: characters after which it is cut; none leaves it whole.
        keep: characters to leave as they are, such as a newline.
    """
    cut = limit is not None and len(text) > limit
    seen = _UNSEEN.sub(
        lambda found: found[0] if found[0] in keep else found[0].encode("unicode_escape").decode(),
        text[:limit],
    )
    return seen + "…" if cut else seen


def printable_json(values: Any, indent: int | None = None) -> str:
    """JSON in which characters that no one can see are written out, so that a terminal obeys none.

    Read as JSON, the values are the same.
    """
    text = json.dumps(values, indent=indent, ensure_ascii=False, allow_nan=False)
    return _UNSEEN.sub(lambda found: "\n" if found[0] == "\n" else json.dumps(found[0])[1:-1], text)
