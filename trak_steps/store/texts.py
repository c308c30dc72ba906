"""Texts as lists of rows hold them: of a length that can be repeated."""

import pyarrow as pa
import pyarrow.compute as pc

# Characters of a text that a list holds. A row that is in the list of many others is repeated.
LONGEST = 10_000


def cut(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Texts of a length that can be listed many times; a cut one ends with an ellipsis."""
    texts = texts.cast(pa.large_string())
    short = pc.utf8_slice_codeunits(texts, 0, LONGEST)
    ellipsis, nothing = (pa.scalar(text, pa.large_string()) for text in ("…", ""))
    marked = pc.binary_join_element_wise(short, ellipsis, nothing)
    return pc.if_else(pc.greater(pc.utf8_length(texts), LONGEST), marked, short)
