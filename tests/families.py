"""A small random classifier of each model family that the project promises to work with."""

import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    ModernBertConfig,
    PretrainedConfig,
    PreTrainedModel,
    RobertaConfig,
)

VOCABULARY = 60
_COMMON = {"vocab_size": VOCABULARY, "pad_token_id": 0}
_SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    **_COMMON,
}
_RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False}


def config(family: str, outputs: int) -> PretrainedConfig:
    """A family's configuration, a few thousand parameters large."""
    made = {
        "bert": lambda: BertConfig(**_SIZES),
        "roberta": lambda: RobertaConfig(**_SIZES, max_position_embeddings=70),
        "distilbert": lambda: DistilBertConfig(n_layers=2, dim=16, n_heads=2, hidden_dim=24, **_COMMON),
        "electra": lambda: ElectraConfig(**_SIZES, embedding_size=8),
        "deberta": lambda: DebertaConfig(**_SIZES, **_RELATIVE),
        "deberta-v2": lambda: DebertaV2Config(**_SIZES, **_RELATIVE, position_buckets=8),
        "gpt2": lambda: GPT2Config(
            n_embd=16,
            n_layer=2,
            n_head=2,
            n_inner=24,
            n_positions=70,
            bos_token_id=1,
            eos_token_id=2,
            **_COMMON,
        ),
        "modernbert": lambda: ModernBertConfig(
            **_SIZES, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2
        ),
    }[family]()
    made.num_labels = outputs
    return made


FAMILIES = ("bert", "roberta", "distilbert", "electra", "deberta", "deberta-v2", "modernbert", "gpt2")


def classifier(
    family: str, outputs: int = 3, seed: int = 0, attention: str | None = "eager"
) -> PreTrainedModel:
    """A random classifier in evaluation mode."""
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_config(
        config(family, outputs), attn_implementation=attention
    )
    return model.eval()
