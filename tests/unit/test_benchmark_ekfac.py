"""The benchmarks' EK-FAC: its sign, what is quicker than kronfluence's own, what is kept."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from trak_steps.gradients.rows import Row

pytest.importorskip("kronfluence", reason="kronfluence is installed by `make test`")
from kronfluence.factor.config import Ekfac, FactorConfig, FactorStrategy
from kronfluence.module.linear import TrackedLinear
from kronfluence.module.tracked_module import TrackedModule

from benchmarks.measure.ekfac import influence, kept_or_made, ways_by_ekfac
from benchmarks.measure.ways import balanced_mean

WORDS = 12


class OneLayer(nn.Module):
    """A linear layer on the mean of fixed word vectors."""

    config = SimpleNamespace(pad_token_id=0)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(WORDS, WORDS)
        self.layer = nn.Linear(WORDS, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        """Logits."""
        mask = attention_mask[:, :, None]
        mean = (self.words(input_ids) * mask).sum(1) / mask.sum(1)
        return SimpleNamespace(logits=self.layer(mean))


def _rows(count: int, seed: int) -> list[Row]:
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 7, (count,), generator=draw).tolist()
    ids = [torch.randint(1, WORDS, (length,), generator=draw).tolist() for length in lengths]
    return [Row(tokens, i % 2) for i, tokens in enumerate(ids)]


def test_a_row_like_the_target_is_a_proponent_and_an_opponent_with_another_label() -> None:
    targets = _rows(4, 1)
    other = [Row(row.input_ids, 1 - int(row.label)) for row in targets]
    scores = influence(OneLayer(), [*_rows(30, 2), *targets, *other], targets)
    assert scores.shape == (38, 4)
    assert (scores[30:34].diagonal() > 0).all()
    assert (scores[34:].diagonal() < 0).all()


def _bert() -> nn.Module:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=WORDS,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=3,
        initializer_range=0.5,
        pad_token_id=0,
    )
    return BertForSequenceClassification(config).eval()


def test_the_quick_layer_gives_the_scores_of_kronfluences_own(monkeypatch: pytest.MonkeyPatch) -> None:
    train, targets = _rows(60, 3), _rows(5, 4)
    quick = influence(_bert(), train, targets)
    monkeypatch.setitem(TrackedModule.SUPPORTED_MODULES, nn.Linear, TrackedLinear)
    monkeypatch.setitem(FactorConfig.CONFIGS, FactorStrategy.EKFAC, Ekfac())
    torch.testing.assert_close(
        quick, influence(_bert(), train, targets), rtol=1e-3, atol=1e-4 * float(quick.abs().max())
    )


def test_scores_are_kept_and_made_again_of_something_else(tmp_path: Path) -> None:
    made = []

    def make() -> Tensor:
        made.append(1)
        return torch.full((2, 3), float(len(made)))

    file = tmp_path / "ekfac" / "0.npz"
    for key, value in (("a", 1), ("a", 1), ("b", 2), ("b", 2)):
        torch.testing.assert_close(kept_or_made(file, key, make), torch.full((2, 3), float(value)))
    assert len(made) == 2


def test_sets_of_checkpoints() -> None:
    torch.manual_seed(0)
    scores = {name: torch.randn(4, 3) for name in ("0-0.5", "0", "1-0.5", "1")}
    ways = dict(ways_by_ekfac(scores))
    assert len(ways) == 6
    last = balanced_mean([scores["0"], scores["1"]])
    torch.testing.assert_close(ways["EK-FAC, 2 trainings, last checkpoints"], last)
    early = balanced_mean([scores["0-0.5"]])
    torch.testing.assert_close(ways["EK-FAC, 1 training, earlier checkpoints"], early)
    scaled = {**scores, "0-0.5": 100 * scores["0-0.5"]}
    for name, of in ways_by_ekfac(scaled):
        torch.testing.assert_close(of, ways[name])
