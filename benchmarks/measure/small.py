"""The first layers of a BERT with the part of its vocabulary that some texts use.

What is left out changes nothing but the cost: the words do not occur, so their embeddings have no
gradient; the layers are fewer, which makes another, smaller model that can be trained often.
"""

from collections.abc import Iterable
from pathlib import Path

from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, BertTokenizerFast


def cut(source: str, folder: Path, *, layers: int, texts: Iterable[str]) -> Path:
    """Write the smaller model.

    Args:
        source: a hub id or folder of a BERT, with its WordPiece vocabulary.
        folder: where to.
        layers: how many of the first ones to keep.
        texts: what the vocabulary has to serve.
    """
    tokenizer = AutoTokenizer.from_pretrained(source)
    used = {token for ids in tokenizer(list(texts))["input_ids"] for token in ids}
    used |= set(tokenizer.all_special_ids)
    kept = sorted(used)
    folder.mkdir(parents=True)
    vocabulary = folder / "vocab.txt"
    words = tokenizer.convert_ids_to_tokens(kept)
    vocabulary.write_text("\n".join(words) + "\n", encoding="utf-8")
    BertTokenizerFast(
        vocab={word: place for place, word in enumerate(words)},
        do_lower_case=True,
        model_max_length=512,
    ).save_pretrained(folder)
    model = AutoModel.from_pretrained(
        source, config=AutoConfig.from_pretrained(source, num_hidden_layers=layers)
    )
    embeddings = model.get_input_embeddings().weight.data[kept].clone()
    model.set_input_embeddings(nn.Embedding.from_pretrained(embeddings, freeze=False))
    model.config.vocab_size = len(kept)
    model.config.pad_token_id = words.index(tokenizer.pad_token)
    model.save_pretrained(folder)
    return folder
