"""Load tokenizers and classifiers, and refuse those that cannot give right numbers."""

import re
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from trak_steps.errors import TrakError
from trak_steps.model.fetch import ADAPTER


def load_tokenizer(folder: Path, *, max_length: int, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """The tokenizer of a model's folder.

    Raises:
        TrakError: if there is none, it has no padding token, or the model cannot read
            ``max_length`` tokens.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # damaged or foreign files make transformers raise anything
        raise TrakError(f"{folder}: its tokenizer cannot be loaded: {_first_line(error)}") from error
    if tokenizer.pad_token_id is None:
        raise TrakError(
            f"{folder}: its tokenizer has no padding token; set one in the tokenizer and "
            "`pad_token_id` in config.json"
        )
    limit = min(tokenizer.model_max_length, _positions(config))
    if max_length > limit:
        raise TrakError(f"model.max_length: is {max_length}, this model reads {limit} tokens")
    return tokenizer


def load_classifier(
    folder: Path,
    *,
    outputs: int,
    device: torch.device,
    trust_remote_code: bool,
    attention: str | None = None,
) -> PreTrainedModel:
    """A fine-tuned classifier in float32, dropout off; of an adapted one only the adapter trainable.

    Args:
        folder: made by ``save_pretrained``.
        outputs: how many logits the labels ask for.
        device: where to put it.
        trust_remote_code: run Python code of the folder.
        attention: which implementation of attention; none leaves it to transformers.

    Raises:
        TrakError: if weights are missing, pickled or not finite, or the number of logits differs.
    """
    if not folder.is_dir():
        raise TrakError(f"{folder}: is missing; make this checkpoint first")
    try:
        model, report = AutoModelForSequenceClassification.from_pretrained(
            folder,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            dtype=torch.float32,
            attn_implementation=attention,
            output_loading_info=True,
            # A base knows nothing of the classes that its adapter was trained for.
            **({"num_labels": outputs} if (folder / ADAPTER).is_dir() else {}),
        )
    except Exception as error:  # damaged or foreign files make transformers raise anything
        raise TrakError(f"{folder}: cannot be loaded as a classifier: {_first_line(error)}") from error
    missing = sorted(report["missing_keys"])
    if (folder / ADAPTER).is_dir():
        model = _adapted(model, folder / ADAPTER)
        trained = {name for name, tensor in model.named_parameters() if tensor.requires_grad}
        missing = sorted(set(missing) - {_name_in_base(name) for name in trained})
    if missing:
        raise TrakError(
            f"{folder}: has no weights for {missing[0]}"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
            + "; a checkpoint has to be a fine-tuned classifier"
        )
    if model.config.num_labels != outputs:
        raise TrakError(f"{folder}: has {model.config.num_labels} classes, the data has {outputs}")
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise TrakError(f"{folder}: the weight {name} is not finite; retrain this checkpoint")
    return model.to(device).eval()


def _adapted(model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    """A model with its adapter, the adapter's parameters alone trainable."""
    try:
        from peft import PeftModel
    except ImportError:
        raise TrakError(
            f"{adapter}: is a PEFT adapter; install what reads it: pip install 'trak-steps[peft]'"
        ) from None
    try:
        return PeftModel.from_pretrained(model, adapter, is_trainable=True, torch_device="cpu")
    except Exception as error:  # damaged or foreign files make peft raise anything
        raise TrakError(f"{adapter}: cannot be loaded: {_first_line(error)}") from error


def _name_in_base(name: str) -> str:
    """The name, in the model without adapter, of a parameter that an adapter replaces whole."""
    return re.sub(r"\.modules_to_save\.[^.]+", "", name).removeprefix("base_model.model.")


def load_for_training(
    folder: Path, *, outputs: int, label_names: list[str], trust_remote_code: bool
) -> PreTrainedModel:
    """A model to fine-tune, in float32: the folder's weights, or random ones where it has none.

    A new classification head (and pooler) is random, so seed before.

    Raises:
        TrakError: if the folder cannot be loaded, or its weights are not those of this model.
    """
    try:
        config = AutoConfig.from_pretrained(
            folder, num_labels=outputs, trust_remote_code=trust_remote_code
        )
        # A folder that was fine-tuned before may carry another loss.
        config.problem_type = "single_label_classification" if label_names else "regression"
        if label_names:
            config.id2label = dict(enumerate(label_names))
            config.label2id = {name: i for i, name in enumerate(label_names)}
        if not any(folder.glob("*.safetensors")):
            model = AutoModelForSequenceClassification.from_config(
                config, trust_remote_code=trust_remote_code
            )
            return model.float()
        model, report = AutoModelForSequenceClassification.from_pretrained(
            folder,
            config=config,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            trust_remote_code=trust_remote_code,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # damaged or foreign files make transformers raise anything
        raise TrakError(f"{folder}: cannot be loaded to be trained: {_first_line(error)}") from error
    prefix = f"{model.base_model_prefix}."
    missing = [
        name
        for name in sorted(report["missing_keys"])
        if name.startswith(prefix) and "pooler" not in name
    ]
    if missing:
        raise TrakError(
            f"{folder}: has no weights for {missing[0]}"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
            + "; are they those of another model? set model.name_or_path to a whole one"
        )
    return model


def _positions(config: AutoConfig) -> int:
    positions = getattr(config, "max_position_embeddings", None) or 2**31
    # RoBERTa and its kin number positions from the padding id on, and lose those before.
    if config.model_type in ("roberta", "xlm-roberta", "camembert", "longformer"):
        positions -= config.pad_token_id + 1
    return int(positions)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300] or type(error).__name__
