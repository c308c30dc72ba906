"""A small run on QNLI: rows prepared and one classifier fine-tuned, once, below ``results/``."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from trak_steps.config import Settings, parse_settings
from trak_steps.data.prepared import PreparedRows
from trak_steps.gradients.rows import Row
from trak_steps.run.layout import Layout
from trak_steps.steps.checkpoints import finetune, import_checkpoint
from trak_steps.steps.data import model as base_model
from trak_steps.steps.data import prepare

TRAIN_ROWS = 1000
ONE = {"count": 1, "keep": [1.0]}


@dataclass(frozen=True)
class Qnli:
    """Where the rows and the model come from.

    Attributes:
        rows: a parquet file with question, sentence and label; none for GLUE's from the hub.
        model: a hub id or a folder of a pretrained encoder.
    """

    rows: Path | None
    model: str

    @property
    def digest(self) -> str:
        """Of where rows and model come from: another source, another run."""
        return hashlib.sha256(f"{self.rows} {self.model}".encode()).hexdigest()[:8]

    def settings(
        self, run: str, rows: int | None, existing: Path | None = None, **features: object
    ) -> Settings:
        """Settings of a run with so many train rows, and perhaps a checkpoint from elsewhere."""
        dataset: dict[str, object] = {"path": "glue", "name": "qnli"}
        if self.rows is not None:
            dataset = {
                "path": "parquet",
                "data_files": {"train": str(self.rows), "validation": str(self.rows)},
                "text": ["question", "sentence"],
            }
        return parse_settings(
            {
                "run": run,
                "dataset": {**dataset, "train_size": rows},
                "model": {"name_or_path": self.model},
                "checkpoints": {"existing": [str(existing)]} if existing else ONE,
                "finetune": {"epochs": 2, "learning_rate": 1e-4},
                "features": features,
                "execution": {"threads": 2},
            }
        )

    def prepared(self, run: str, rows: int) -> Layout:
        """A run's model and rows, made if they are not there."""
        layout, settings = Layout(Path("results") / run), self.settings(run, rows)
        if not layout.model.exists():
            base_model.run(layout, settings)
        if not layout.train.exists():
            prepare.run_train(layout, settings)
        return layout

    def brought(self, run: str, rows: int, checkpoint: Path) -> Layout:
        """A run of so many rows with a checkpoint that was fine-tuned in another; made if not there."""
        layout, settings = Layout(Path("results") / run), self.settings(run, rows, checkpoint)
        if not layout.checkpoint("0").exists():
            base_model.run(layout, settings, str(checkpoint))
            prepare.run_train(layout, settings)
            import_checkpoint.run(layout, settings, 0, str(checkpoint))
        return layout

    def fine_tuned(self) -> Layout:
        """The run with a fine-tuned checkpoint ``0``."""
        run = f"benchmark-qnli-{self.digest}"
        layout = self.prepared(run, TRAIN_ROWS)
        if not layout.checkpoint("0").exists():
            finetune.run(layout, self.settings(run, TRAIN_ROWS), 0)
        return layout


def read_rows(layout: Layout, count: int) -> list[Row]:
    """The first rows of a prepared train set."""
    prepared = PreparedRows.load(layout.train)
    labels = prepared.column("label", 0, count).tolist()
    tokens = prepared.tokens(0, count)
    return [Row(label=label, **row) for label, row in zip(labels, tokens, strict=True)]
