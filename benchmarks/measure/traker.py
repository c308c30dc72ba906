"""The reference's own featurize step, on the same rows."""

import tempfile
import time
from collections.abc import Sequence

import torch
import trak
from torch import Tensor, nn
from trak.projectors import BasicProjector

from benchmarks.measure.models import minilm
from trak_steps.gradients.rows import Row, collate

CPU = torch.device("cpu")


class Logits(nn.Module):
    """The reference expects a model that gives logits."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, **inputs: Tensor) -> Tensor:
        logits: Tensor = self.classifier(**inputs).logits
        return logits


def seconds_a_row(rows: Sequence[Row], dim: int) -> float:
    """Seconds that ``traker``'s featurize takes for a row, all rows in one batch, in float32.

    Args:
        rows: of one length; the batch is all of them.
        dim: k.
    """
    model = Logits(minilm(attention="eager"))
    size = sum(parameter.numel() for parameter in model.parameters())
    batch = collate(rows, CPU)
    mask = torch.zeros(len(rows), 1, 1, batch["input_ids"].shape[1])
    tensors = [batch["input_ids"], batch["token_type_ids"], mask, batch["label"]]
    projector = BasicProjector(
        grad_dim=size, proj_dim=dim, seed=0, proj_type="rademacher", device=CPU, dtype=torch.float32
    )
    with tempfile.TemporaryDirectory() as folder:
        traker = trak.TRAKer(
            model=model,
            task="text_classification",
            train_set_size=len(rows),
            save_dir=folder,
            device="cpu",
            projector=projector,
            use_half_precision=False,
            load_from_save_dir=False,
        )
        traker.load_checkpoint(model.state_dict(), model_id=0)
        start = time.perf_counter()
        traker.featurize(tensors, num_samples=len(rows))
        return (time.perf_counter() - start) / len(rows)
