"""Which files of a model's folder are used, told by their names.

The workflow asks here what its inputs are, so nothing heavy is imported.
"""

from pathlib import Path

SMALL = ("*.json", "*.txt", "*.model", "*.jinja")
WEIGHTS = ("*.safetensors",)
CODE = ("*.py",)
# All that may be copied into a run.
COPIED = (*SMALL, *WEIGHTS, *CODE)
# Pickles, or formats that may hold some: never read.
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt", "*.h5", "*.msgpack")

WEIGHTS_FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SECOND_MOMENTS = "second_moments.safetensors"
ADAPTER = "adapter"
CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
# Of a checkpoint that `transformers.Trainer` saved.
TRAINER_STATE = "trainer_state.json"
OPTIMIZER = "optimizer.pt"
# Of a tokenizer, among SMALL.
TOKENIZER = (
    "tokenizer*.json",
    "vocab.*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.model",
    "*.jinja",
)
# Each holds a vocabulary.
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of a tokenizer in a folder; none unless one holds its words."""
    if not any(any(folder.glob(pattern)) for pattern in VOCABULARIES):
        return []
    return sorted({path for pattern in TOKENIZER for path in folder.glob(pattern) if path.is_file()})
