"""Load tokenizers and classifiers, and refuse those that cannot give right numbers."""

import json
import re
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from trak_steps.errors import TrakError
from trak_steps.model.fetch import pickled, weight_files
from trak_steps.model.files import ADAPTER, ADAPTER_CONFIG, WEIGHTS_FILE
from trak_steps.model.size import stored_parameters

if not sys.stderr.isatty():
    logging.disable_progress_bar()

if TYPE_CHECKING:  # takes two seconds, which a step that reads only the tokenizer need not wait
    from transformers import PreTrainedModel

FLOATS = ("F64", "F32", "F16", "BF16")
# Settings of a model that make a library fetch code and run it.
KERNELS = ("attn_implementation", "experts_implementation")
# Settings of an adapter that make peft import a module, or load another model its own way.
ADAPTER_CODE = ("megatron_config", "tokenizer_kwargs")


def load_config(folder: Path, *, trust_remote_code: bool) -> PretrainedConfig:
    """The configuration of a model's folder.

    Raises:
        TrakError: if it is damaged, does not say of what type the model is, or asks for code.
    """
    _check_config(folder, trust_remote_code)
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # damaged or foreign files make transformers raise anything
        raise _failed(folder, "its config.json cannot be read", error) from error


def load_tokenizer(folder: Path, *, max_length: int, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """The tokenizer of a model's folder.

    Raises:
        TrakError: if there is none, it has no padding token, or the model cannot read
            ``max_length`` tokens.
    """
    config = load_config(folder, trust_remote_code=trust_remote_code)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        limit = min(int(tokenizer.model_max_length), _positions(config))
        vocabulary = set(tokenizer.get_vocab())
    except Exception as error:  # damaged or foreign files make transformers raise anything
        raise _failed(folder, "its tokenizer cannot be loaded", error) from error
    if vocabulary <= set(tokenizer.all_special_tokens):
        raise TrakError(
            f"{folder}: has no tokenizer, or one without words; save the tokenizer beside the model"
        )
    if tokenizer.pad_token_id is None:
        raise TrakError(
            f"{folder}: its tokenizer has no padding token; set one in the tokenizer and "
            "`pad_token_id` in config.json"
        )
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
) -> "PreTrainedModel":
    """A fine-tuned classifier in float32, dropout off; of an adapted one only the adapter trainable.

    Args:
        folder: made by ``save_pretrained``.
        outputs: how many logits the labels ask for.
        device: where to put it.
        trust_remote_code: run Python code of the folder.
        attention: which implementation of attention; none leaves it to transformers.

    Raises:
        TrakError: if weights are missing, pickled, of another shape or type, or not finite, or the
            number of logits differs.
    """
    if not folder.is_dir():
        raise TrakError(f"{folder}: is missing; make this checkpoint first")
    _check_config(folder, trust_remote_code)
    weight_files(folder)
    try:
        model, report = AutoModelForSequenceClassification.from_pretrained(
            folder,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            dtype=torch.float32,
            attn_implementation=attention,
            output_loading_info=True,
            # They are named below.
            ignore_mismatched_sizes=True,
            # A base knows nothing of the classes that its adapter was trained for.
            **({"num_labels": outputs} if (folder / ADAPTER).is_dir() else {}),
        )
    except Exception as error:  # damaged or foreign files make transformers raise anything
        raise _failed(folder, "cannot be loaded as a classifier", error) from error
    missing, other_shape = set(report["missing_keys"]), _of_another_shape(report)
    if (folder / ADAPTER).is_dir():
        model = _adapted(model, folder / ADAPTER, trust_remote_code)
        trained = {name for name, tensor in model.named_parameters() if tensor.requires_grad}
        in_base = {_name_in_base(name) for name in trained}
        missing -= in_base
        other_shape = {name: shapes for name, shapes in other_shape.items() if name not in in_base}
    for name, shapes in sorted(other_shape.items()):
        raise TrakError(
            f"{folder}: the weight {name} has the shape {shapes}; are weights and config.json of the "
            "same model?"
        )
    if missing:
        raise TrakError(
            f"{folder}: has no weights for {min(missing)}"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
            + "; a checkpoint has to be a fine-tuned classifier"
        )
    if model.config.num_labels != outputs:
        raise TrakError(f"{folder}: has {model.config.num_labels} classes, the data has {outputs}")
    _check_weights(folder, model, "retrain this checkpoint")
    return model.to(device).eval()


def _adapted(model: "PreTrainedModel", adapter: Path, trust_remote_code: bool) -> "PreTrainedModel":
    """A model with its adapter, the adapter's parameters alone trainable."""
    values = _read_json(adapter / ADAPTER_CONFIG)
    for key in ADAPTER_CODE:
        if values.get(key) and not trust_remote_code:
            raise TrakError(
                f"{adapter / ADAPTER_CONFIG}: sets {key}, which can make code run; take it out, or set "
                "model.trust_remote_code: true"
            )
    try:
        from peft import PeftModel
    except ImportError:
        raise TrakError(
            f"{adapter}: is a PEFT adapter; install what reads it: pip install 'trak-steps[peft]'"
        ) from None
    try:
        with warnings.catch_warnings():
            # peft only warns of what would leave the adapter, or a part of it, as good as absent.
            warnings.filterwarnings("error", message=".*missing adapter keys")
            return PeftModel.from_pretrained(model, adapter, is_trainable=True, torch_device="cpu")
    except Exception as error:  # damaged or foreign files make peft raise anything
        raise _failed(adapter, "cannot be loaded", error) from error


def _name_in_base(name: str) -> str:
    """The name, in the model without adapter, of a parameter that an adapter replaces whole."""
    return re.sub(r"\.modules_to_save\.[^.]+", "", name).removeprefix("base_model.model.")


def load_for_training(
    folder: Path,
    *,
    outputs: int,
    label_names: list[str],
    trust_remote_code: bool,
    dropout: float | None = None,
) -> "PreTrainedModel":
    """A model to fine-tune, in float32: the folder's weights, or random ones where it has none.

    A new classification head (and pooler) is random, so seed before.

    Args:
        folder: of the model.
        outputs: how many logits the labels ask for.
        label_names: of the classes; none for regression.
        trust_remote_code: run Python code of the folder.
        dropout: all of the model's dropout probabilities; none leaves them as its config.json says.

    Raises:
        TrakError: if the folder cannot be loaded, its weights are pickled, damaged or not finite, or
            are not those of this model.
    """
    _check_config(folder, trust_remote_code)
    from_scratch = not weight_files(folder)
    if from_scratch and any([*folder.glob("*.safetensors"), *pickled(folder)]):
        raise TrakError(f"{folder}: has weights, but no {WEIGHTS_FILE}; save it with `save_pretrained`")
    try:
        config = AutoConfig.from_pretrained(
            folder, num_labels=outputs, trust_remote_code=trust_remote_code
        )
        if dropout is not None:
            _set_dropout(config, dropout)
        # A folder that was fine-tuned before may carry another loss.
        config.problem_type = "single_label_classification" if label_names else "regression"
        if label_names:
            config.id2label = dict(enumerate(label_names))
            config.label2id = {name: i for i, name in enumerate(label_names)}
        if from_scratch:
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
        raise _failed(folder, "cannot be loaded to be trained", error) from error
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
    for name, shapes in sorted(_of_another_shape(report).items()):
        if name.startswith(prefix):  # of a head, whose classes were others, new weights are made
            raise TrakError(
                f"{folder}: the weight {name} has the shape {shapes}; are weights and config.json of "
                "the same model?"
            )
    _check_weights(folder, model, "set model.name_or_path to a whole one")
    return model


def count_parameters(folder: Path, *, trust_remote_code: bool) -> int | None:
    """How many parameters a model's folder has, or a classifier of its configuration has; loads none.

    None if neither can be read: steps that load the model say why.
    """
    try:
        if files := weight_files(folder):
            return stored_parameters(files)
        config = load_config(folder, trust_remote_code=trust_remote_code)
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(
                config, trust_remote_code=trust_remote_code
            )
    except Exception:  # damaged or foreign files make transformers raise anything
        return None
    return int(sum(parameter.numel() for parameter in model.parameters()))


def _set_dropout(config: PretrainedConfig, dropout: float) -> None:
    """Every model family has names of its own for them; all are numbers, or null for another's."""
    for name, value in config.to_dict().items():
        of_dropout = "dropout" in name or name.endswith("_pdrop")
        if of_dropout and (value is None or type(value) in (int, float)):
            setattr(config, name, dropout)


def _check_config(folder: Path, trust_remote_code: bool) -> None:
    """Refuse a config.json that is no configuration, or that asks for code from elsewhere."""
    file = folder / "config.json"
    values = _read_json(file)
    if not isinstance(values.get("model_type"), str):
        raise TrakError(f"{file}: does not say of what type the model is (model_type); save it again")
    for key, value in _settings(values):
        if key.endswith(KERNELS) and "/" in str(value) and not trust_remote_code:
            raise TrakError(
                f"{file}: asks for code from the hub ({key}: {str(value)[:80]}); take that out, or set "
                "model.trust_remote_code: true"
            )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise TrakError(f"{file}: cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError) as error:
        raise TrakError(f"{file}: is not JSON ({error}); fetch or save the model again") from None
    if not isinstance(values, dict):
        raise TrakError(f"{file}: should hold a JSON object; fetch or save the model again")
    return values


def _settings(values: dict[str, Any]) -> list[tuple[str, Any]]:
    """All keys and values of a JSON object, those of objects within included."""
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        found.append((key, value))
        if isinstance(value, dict):
            found += _settings(value)
    return found


def _of_another_shape(report: dict[str, Any]) -> dict[str, str]:
    """The names of weights that do not fit the model, with both shapes in words."""
    return {
        name: f"{list(saved)}, its config.json asks for {list(wanted)}"
        for name, saved, wanted in report["mismatched_keys"]
    }


def _check_weights(folder: Path, model: "PreTrainedModel", advice: str) -> None:
    """Refuse weights that are integers, which lack their scale, or not finite."""
    parameters = dict(model.named_parameters())
    prefix = f"{model.base_model_prefix}."
    for file in [*weight_files(folder), *(folder / ADAPTER).glob("*.safetensors")]:
        with safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - not a mapping
                kind = weights.get_slice(name).get_dtype()
                used = {name, prefix + name} & parameters.keys() or file.parent.name == ADAPTER
                if used and kind not in FLOATS:
                    raise TrakError(f"{file}: the weight {name} is of type {kind}, not floats; {advice}")
    for name, parameter in parameters.items():
        if not torch.isfinite(parameter).all():
            raise TrakError(f"{folder}: the weight {name} is not finite; {advice}")


def _positions(config: PretrainedConfig) -> int:
    positions = getattr(config, "max_position_embeddings", None) or 2**31
    # RoBERTa and its kin number positions from the padding id on, and lose those before.
    if config.model_type in ("roberta", "xlm-roberta", "camembert", "longformer"):
        positions -= config.pad_token_id + 1
    return int(positions)


def _failed(folder: Path, what: str, error: Exception) -> TrakError:
    """What a library says, on one line, and what to do about it."""
    lines = [line.strip() for line in str(error).strip().split("\n")]
    words = " ".join(lines[:2] if lines[0].endswith(":") else lines[:1])[:300] or type(error).__name__
    advice = ""
    if isinstance(error, SafetensorError):
        advice = "; its weights are damaged: fetch or save them again"
    elif "custom code" in words:
        advice = "; only model.trust_remote_code: true runs it"
    return TrakError(f"{folder}: {what}: {words}{advice}")
