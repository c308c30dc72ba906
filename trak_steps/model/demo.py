"""The demo's model: a small BERT without weights, and a WordPiece vocabulary of the train texts."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, PreTrainedTokenizerFast

SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
VOCABULARY = 1500
LONGEST_WORD = 100  # what the tokenizer looks up; a longer one is unknown to it
WIDTH = 128
LAYERS = 2
HEADS = 4
POSITIONS = 512


def make_demo_model(texts: Iterable[str], destination: Path) -> int:
    """Write a tokenizer and a BERT configuration; without weights, training starts from random ones.

    Args:
        texts: what the vocabulary is made from.
        destination: the folder to make.

    Returns:
        How many parameters a classifier of two classes has; to build one would take two seconds.
    """
    tokenizer = _wordpiece(texts)
    tokenizer.save_pretrained(destination)
    BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        max_position_embeddings=POSITIONS,
        pad_token_id=tokenizer.pad_token_id,
        architectures=["BertForSequenceClassification"],
    ).save_pretrained(destination)
    embeddings = (len(tokenizer) + POSITIONS + 2) * WIDTH + 2 * WIDTH
    layer = 4 * (WIDTH + 1) * WIDTH + 2 * 4 * WIDTH * WIDTH + 5 * WIDTH + 4 * WIDTH
    return embeddings + LAYERS * layer + (WIDTH + 1) * WIDTH + 2 * (WIDTH + 1)


def _wordpiece(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    normalizer = normalizers.BertNormalizer(lowercase=True)
    splitter = pre_tokenizers.BertPreTokenizer()
    vocabulary = _vocabulary(
        word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))
    )
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=SPECIAL["unk"]))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **{f"{name}_token": token for name, token in SPECIAL.items()},
    )


def _vocabulary(words: Iterable[str]) -> dict[str, int]:
    """Special tokens, single characters, and the most frequent words in an order without ties.

    The library's trainer breaks ties between equally frequent pieces at random, and a demo whose
    vocabulary changes from run to run gives other numbers each time.
    """
    counts = Counter(words)
    letters = sorted({letter for word in counts for letter in word})
    pieces = [*SPECIAL.values(), *letters, *(f"##{letter}" for letter in letters)]
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    pieces += [word for word in ranked if 1 < len(word) <= LONGEST_WORD]
    return {piece: number for number, piece in enumerate(pieces[:VOCABULARY])}
