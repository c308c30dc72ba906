"""Bring a model's files into the run, so that every later job reads a local folder.

A PEFT adapter (LoRA, say) is a folder without the model that it adapts: that is fetched too, and the
adapter's own files go to a folder :data:`~trak_steps.model.files.ADAPTER` within.
"""

import json
import shutil
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import RevisionNotFoundError

from trak_steps.errors import NotFetchedError, TrakError
from trak_steps.model.files import (
    ADAPTER,
    ADAPTER_CONFIG,
    CODE,
    CONFIG,
    INDEX,
    PICKLES,
    SMALL,
    TOKENIZER,
    TRAINER_STATE,
    WEIGHTS,
    WEIGHTS_FILE,
    tokenizer_files,
)
from trak_steps.model.trainer_folder import has_checkpoints


def fetch_model(
    name_or_path: str, destination: Path, *, setting: str, weights: bool, trust_remote_code: bool
) -> dict[str, str]:
    """Copy a model's configuration, tokenizer and safetensors weights into a new folder.

    Args:
        name_or_path: a local folder, or a hub id, alone or with a revision: ``org/name@revision``.
        destination: the folder to make.
        setting: the setting that names the model, for messages.
        weights: whether weights are needed.
        trust_remote_code: whether to bring Python files along.

    Returns:
        Of what is from the hub, the commits by name.

    Raises:
        TrakError: if there is no such model or revision, it lacks weights, has only pickled ones, or a
            file of it cannot be read.
    """
    patterns = [*SMALL, *(WEIGHTS if weights else ()), *(CODE if trust_remote_code else ())]
    source = _find(name_or_path, patterns, setting)
    if not (source / ADAPTER_CONFIG).is_file():
        _check(source, name_or_path, setting, weights)
        _copy(source, destination, patterns)
        return _commits({name_or_path: source})
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
        raise _no_weights(source, name_or_path, setting, "adapter_model.safetensors")
    _copy(found, destination, patterns)
    # The adapter's own tokenizer and classes, if it has any, count for more than its base's.
    _copy(source, destination, SMALL, but=ADAPTER_CONFIG)
    if weights:
        _copy(source, destination / ADAPTER, (ADAPTER_CONFIG, *WEIGHTS))
    return _commits({name_or_path: source, base: found})


def with_revision(name_or_path: str, revision: str | None) -> str:
    """A hub id with its revision, if it has one. Raises TrakError for a folder, which has none."""
    if revision is None:
        return name_or_path
    if _is_folder(name_or_path, "model.name_or_path"):
        raise TrakError(
            f"model.revision: {name_or_path} is a folder here, which has no revisions; leave it out"
        )
    return f"{name_or_path}@{revision}"


def _commits(sources: Mapping[str, Path]) -> dict[str, str]:
    """The commits of those that lie in the hub's cache, where a folder is named by its commit."""
    return {
        name.partition("@")[0]: source.name
        for name, source in sources.items()
        if source.parent.name == "snapshots"
    }


def fetch_tokenizer(destination: Path, named: str, base: str | None) -> str:
    """Bring a tokenizer to a model that came without one; gives where it is from.

    Args:
        destination: the model's folder in the run.
        named: the folder or hub id that the model is from; the folder that it is in is looked at, too.
        base: the folder or hub id of the model that it was fine-tuned from.

    Raises:
        TrakError: if there is no tokenizer either.
    """
    above = Path(named).expanduser().parent
    if tokenizer_files(above):
        _copy(above, destination, TOKENIZER)
        return str(above)
    if base is None:
        raise TrakError(
            f"checkpoints.existing: {named} has no tokenizer; set model.name_or_path to the model that "
            "it was fine-tuned from, whose tokenizer is taken, or save the tokenizer beside it"
        )
    source = _find(base, list(SMALL), "model.name_or_path")
    if not tokenizer_files(source):
        raise TrakError(
            f"checkpoints.existing: {named} has no tokenizer, and neither has model.name_or_path: {base}"
        )
    _copy(source, destination, TOKENIZER)
    return base


def _base_of(adapter: Path, named: str, setting: str) -> str:
    """The model that an adapter was trained on."""
    try:
        values = json.loads((adapter / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        base = values["base_model_name_or_path"]
        revision = values.get("revision")
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        base = revision = None
    if not base or not isinstance(base, str):
        raise TrakError(
            f"{setting}: {named} is an adapter, and its {ADAPTER_CONFIG} does not say of which model; "
            "set base_model_name_or_path there"
        )
    # A folder has none, whatever stands there.
    of_hub = isinstance(revision, str) and revision and not _is_folder(base, setting)
    return f"{base}@{revision}" if of_hub else base


def _copy(source: Path, destination: Path, patterns: Iterable[str], but: str = "") -> None:
    """Copy regular files. Links are followed: a hub's cache is made of them."""
    destination.mkdir(parents=True, exist_ok=True)
    for pattern in patterns:
        for file in source.glob(pattern):
            if file.name in (but, TRAINER_STATE) or file.is_dir():
                continue
            if not file.is_file():
                raise TrakError(f"{file}: is not a file that can be copied (a broken link, or a device)")
            try:
                shutil.copyfile(file, destination / file.name)
            except OSError as error:
                raise TrakError(f"{file}: cannot be copied ({error.strerror or error})") from None


def _find(name_or_path: str, patterns: list[str], setting: str) -> Path:
    """The local folder, or the hub's files."""
    if _is_folder(name_or_path, setting):
        return Path(name_or_path).expanduser()
    name, _, revision = name_or_path.partition("@")
    source = Path(name_or_path)
    if source.is_absolute() or name_or_path.startswith((".", "~")) or name.count("/") > 1:
        raise TrakError(f"{setting}: there is no folder {source.expanduser().absolute()}")
    return _download(name, revision or None, patterns, setting)


def _is_folder(name_or_path: str, setting: str) -> bool:
    try:
        return Path(name_or_path).expanduser().is_dir()
    except (OSError, RuntimeError) as error:  # a name that is too long, or the home of nobody
        raise TrakError(f"{setting}: {name_or_path[:80]!r} is not a folder ({error})"[:400]) from None


def _download(name: str, revision: str | None, patterns: list[str], setting: str) -> Path:
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except RevisionNotFoundError as error:
        raise TrakError(f"{setting}: `{name}` has no revision `{revision}` on the hub") from error
    except Exception as error:  # a hub's client raises many kinds; all mean that it is not there
        words = str(error).strip().split("\n")[0][:200]
        at = f" at revision `{revision}`" if revision else ""
        raise NotFetchedError(
            f"{setting}: `{name}`{at} is not a folder here and could not be fetched from the hub "
            f"({type(error).__name__}: {words}); set {setting} to a local folder, or HF_TOKEN if it "
            "needs one"
        ) from error


def _check(folder: Path, named: str, setting: str, weights: bool) -> None:
    trainer = setting == "checkpoints.existing" and has_checkpoints(folder)
    if not (folder / CONFIG).is_file():
        raise TrakError(
            f"{setting}: {named} has no config.json, so it is not a model's folder"
            + (f"; to import a training's checkpoints, write {{run: {named}}}" if trainer else "")
        )
    if not weights or weight_files(folder):
        return
    raise _no_weights(folder, named, setting, WEIGHTS_FILE)


def _no_weights(folder: Path, named: str, setting: str, wanted: str) -> TrakError:
    """Whether there are no weights at all, or only pickled ones."""
    pickles = pickled(folder) or _pickled_on_the_hub(named)
    if pickles:
        return TrakError(
            f"{setting}: {named} holds pickled weights ({pickles[0]}), which can run code when "
            f"they are read; save the model with `save_pretrained`, which writes {wanted}"
        )
    return TrakError(f"{setting}: {named} has no weights ({wanted})")


def _pickled_on_the_hub(named: str) -> list[str]:
    """What :func:`pickled` would give if everything were fetched; none where the hub cannot be asked."""
    if Path(named).expanduser().is_dir():
        return []
    try:
        name, _, revision = named.partition("@")
        names = HfApi().list_repo_files(name, revision=revision or None)
    except Exception:  # a hub's client raises many kinds; all mean that it does not say
        return []
    return sorted(
        name for name in names if "/" not in name and any(fnmatch(name, kind) for kind in PICKLES)
    )


def pickled(folder: Path) -> list[str]:
    """The names of files that are pickles, or may hold some."""
    return sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))


def weight_files(folder: Path) -> list[Path]:
    """The files that weights are read from: one, or the parts that an index names.

    The index is a text that anyone can write: it may name a file that lies elsewhere, or a pickle.

    Raises:
        TrakError: if the index is damaged, or a part is missing or not a safetensors file beside it.
    """
    index = folder / INDEX
    if (folder / WEIGHTS_FILE).is_file() or not index.is_file():
        return list(folder.glob(WEIGHTS_FILE))
    try:
        parts = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise TrakError(f"{index}: does not say where the weights are; save the model again") from None
    for part in parts:
        if not isinstance(part, str) or Path(part).name != part or not part.endswith(".safetensors"):
            raise TrakError(f"{index}: names {part!r:.80}, which is not a safetensors file beside it")
        if not (folder / part).is_file():
            raise TrakError(f"{index}: names {part}, which is missing; fetch or save the model again")
    return sorted(folder / part for part in parts)
