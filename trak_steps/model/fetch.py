"""Bring a model's files into the run, so that every later job reads a local folder.

A PEFT adapter (LoRA, say) is a folder without the model that it adapts: that is fetched too, and the
adapter's own files go to a folder :data:`ADAPTER` within.
"""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import snapshot_download

from trak_steps.errors import TrakError

SMALL = ("*.json", "*.txt", "*.model", "*.jinja")
WEIGHTS = ("*.safetensors",)
ADAPTER = "adapter"
ADAPTER_CONFIG = "adapter_config.json"
CODE = ("*.py",)
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt", "*.h5", "*.msgpack")


def fetch_model(
    name_or_path: str, destination: Path, *, setting: str, weights: bool, trust_remote_code: bool
) -> None:
    """Copy a model's configuration, tokenizer and safetensors weights into a new folder.

    Args:
        name_or_path: a local folder or a hub id.
        destination: the folder to make.
        setting: the setting that names the model, for messages.
        weights: whether weights are needed.
        trust_remote_code: whether to bring Python files along.

    Raises:
        TrakError: if there is no such model, it lacks weights, or has only pickled ones.
    """
    patterns = [*SMALL, *(WEIGHTS if weights else ()), *(CODE if trust_remote_code else ())]
    source = _find(name_or_path, patterns, setting)
    if not (source / ADAPTER_CONFIG).is_file():
        _check(source, name_or_path, setting, weights)
        _copy(source, destination, patterns)
        return
    if setting != "checkpoints.existing":
        raise TrakError(
            f"{setting}: {name_or_path} is an adapter, which is not trained further here; name it in "
            "checkpoints.existing"
        )
    base = _base_of(source, name_or_path, setting)
    of = f"{setting}: {name_or_path} is an adapter of {base}"
    found = _find(base, patterns, of)
    if (found / ADAPTER_CONFIG).is_file():
        raise TrakError(f"{of}, which is an adapter itself; merge that one into its model first")
    _check(found, base, of, weights)
    if weights and not any(source.glob("*.safetensors")):
        raise TrakError(f"{setting}: {name_or_path} has no adapter weights (adapter_model.safetensors)")
    _copy(found, destination, patterns)
    # The adapter's own tokenizer and classes, if it has any, count for more than its base's.
    _copy(source, destination, SMALL, but=ADAPTER_CONFIG)
    if weights:
        _copy(source, destination / ADAPTER, (ADAPTER_CONFIG, *WEIGHTS))


def _base_of(adapter: Path, named: str, setting: str) -> str:
    """The model that an adapter was trained on."""
    try:
        base = json.loads((adapter / ADAPTER_CONFIG).read_text())["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError):
        base = None
    if not base or not isinstance(base, str):
        raise TrakError(
            f"{setting}: {named} is an adapter, and its {ADAPTER_CONFIG} does not say of which model; "
            "set base_model_name_or_path there"
        )
    return base


def _copy(source: Path, destination: Path, patterns: Iterable[str], but: str = "") -> None:
    destination.mkdir(parents=True, exist_ok=True)
    for pattern in patterns:
        for file in source.glob(pattern):
            if file.name != but:
                shutil.copyfile(file, destination / file.name)


def _find(name_or_path: str, patterns: list[str], setting: str) -> Path:
    """The local folder, or the hub's files."""
    source = Path(name_or_path).expanduser()
    if source.is_dir():
        return source
    if source.is_absolute() or name_or_path.startswith((".", "~")) or name_or_path.count("/") > 1:
        raise TrakError(f"{setting}: there is no folder {source.absolute()}")
    return _download(name_or_path, patterns, setting)


def _download(name: str, patterns: list[str], setting: str) -> Path:
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # a hub's client raises many kinds; all mean that it is not there
        words = str(error).strip().split("\n")[0][:200]
        raise TrakError(
            f"{setting}: `{name}` is not a folder here and could not be fetched from the hub "
            f"({type(error).__name__}: {words}); set {setting} to a local folder"
        ) from error


def _check(folder: Path, named: str, setting: str, weights: bool) -> None:
    if not (folder / "config.json").is_file():
        raise TrakError(f"{setting}: {named} has no config.json, so it is not a model's folder")
    if not weights or any(folder.glob("*.safetensors")):
        return
    pickles = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
    if pickles:
        raise TrakError(
            f"{setting}: {named} holds pickled weights ({pickles[0]}), which can run code when "
            "they are read; save the model with `save_pretrained`, which writes model.safetensors"
        )
    raise TrakError(f"{setting}: {named} has no weights (model.safetensors)")
