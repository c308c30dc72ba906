"""The local files that a run is made from: inputs of the workflow, so that editing one reruns it."""

from glob import glob
from pathlib import Path

from trak_steps.config import Settings

MODEL_FILES = ("*.safetensors", "*.json", "*.txt", "*.model")


def local_files(settings: Settings, split: str) -> list[str]:
    """The files of a split that ``dataset.data_files`` names; what is not there yet is left out."""
    patterns = (settings.dataset.data_files or {}).get(split, [])
    found = [glob(p) for p in ([patterns] if isinstance(patterns, str) else patterns) if "://" not in p]
    return sorted(file for files in found for file in files)


def local_model(name_or_path: str) -> list[str]:
    """The files of a model's folder; none for a hub id or the demo's model."""
    folder = Path(name_or_path).expanduser()
    if not folder.is_dir():
        return []
    return sorted(str(file) for pattern in MODEL_FILES for file in folder.glob(pattern))
