"""Texts as the run's models read them: what rows are prepared with, and texts that are explained."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from trak_steps.data.prepared import TOKENS
from trak_steps.errors import TrakError
from trak_steps.model.load import load_config, load_tokenizer


class Tokeniser:
    """The tokenizer of a model's folder.

    Args:
        folder: of the model.
        max_length: tokens after which texts are cut.
        trust_remote_code: run Python code of the folder.

    Raises:
        TrakError: as :func:`~trak_steps.model.load.load_tokenizer`.
    """

    def __init__(self, folder: Path, *, max_length: int, trust_remote_code: bool) -> None:
        self._folder, self._max_length = folder, max_length
        self._trust_remote_code = trust_remote_code
        self._tokenizer: PreTrainedTokenizerBase = load_tokenizer(
            folder, max_length=max_length, trust_remote_code=trust_remote_code
        )

    def __call__(self, texts: Sequence[Sequence[str]]) -> dict[str, list[list[int]]]:
        """The tokens of rows, by :data:`~trak_steps.data.prepared.TOKENS`.

        Args:
            texts: the texts of every row, column by column; one column or two.

        Raises:
            TrakError: if the model does not know one of the tokens.
        """
        encoded = self._tokenizer(*texts, truncation=True, max_length=self._max_length)
        largest = max((max(tokens, default=0) for tokens in encoded["input_ids"]), default=0)
        if self._known is not None and largest >= self._known:
            # A tokenizer may come from another model than the weights.
            raise TrakError(
                f"{self._folder}: its tokenizer gives the token {largest}, its model knows "
                f"{self._known}; are they those of two models? set model.name_or_path to a whole one"
            )
        wanted = [name for name in TOKENS if name in self._tokenizer.model_input_names]
        return {name: encoded[name] for name in wanted}

    def whole_length(self, texts: Sequence[str]) -> int:
        """How many tokens a row's texts would have, were they not cut."""
        encoded = self._tokenizer(*([text] for text in texts), verbose=False)
        return len(encoded["input_ids"][0])

    @cached_property
    def _known(self) -> int | None:
        config = load_config(self._folder, trust_remote_code=self._trust_remote_code)
        known: int | None = getattr(config, "vocab_size", None)
        return known
