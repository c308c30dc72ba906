"""Which files of a model's folder are used, told by their names.

The workflow asks here what its inputs are, so nothing heavy is imported.
"""

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
ADAPTER_CONFIG = "adapter_config.json"
