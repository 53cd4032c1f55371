"""A model of Hugging Face: its constructor takes a config object, and its output is a mapping and a dataclass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip(
    "transformers", reason="needs transformers: pip install --no-deps -r tests/packages/requirements.txt"
)
pytestmark = [pytest.mark.packages, pytest.mark.filterwarnings("ignore")]

CODE = """
from transformers import BertConfig, BertForSequenceClassification


class Tiny(BertForSequenceClassification):
    def __init__(self, width: int = 16, labels: int = 3):
        sizes = {"hidden_size": width, "intermediate_size": width, "num_hidden_layers": 1, "num_attention_heads": 2}
        super().__init__(BertConfig(vocab_size=20, max_position_embeddings=8, num_labels=labels, **sizes))
"""
TRAINER = {
    "forward_properties": ["input_ids", "attention_mask"],
    "target_properties": ["label_target"],
    "field_weights": {"label": 1.0},
    "outputs": {"label": "logits"},
    "loss_fn": "cross-entropy",
}


def tokens() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    mask = np.ones((12, 8), dtype="int64")
    return {"input_ids": rng.integers(0, 20, (12, 8)), "attention_mask": mask, "label_target": rng.integers(0, 3, 12)}


def test_it_trains_resumes_and_is_evaluated(trained: Any, project: Path) -> None:
    (project / "nets.py").write_text(CODE)
    checkpoint = trained({"kind": "nets.Tiny", "width": 8}, tokens(), TRAINER)
    assert "bert.embeddings.word_embeddings.weight" in checkpoint.tensors("model.safetensors")
