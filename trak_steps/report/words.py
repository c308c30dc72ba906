"""Words that say little, because many texts have them."""

import re
from collections import Counter
from collections.abc import Iterable

WORD = re.compile(r"[^\W_]+")
# Words of more than this share of the texts say little.
SHARE = 0.05


def common_words(texts: Iterable[str]) -> list[str]:
    """The words, in lower case, that more than a share of the texts have; none of few texts."""
    counts: Counter[str] = Counter()
    n = 0
    for text in texts:
        n += 1
        counts.update(set(WORD.findall(text.lower())))
    return sorted(word for word, count in counts.items() if count > max(10, SHARE * n))
