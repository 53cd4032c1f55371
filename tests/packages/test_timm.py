"""A vision transformer of timm, by dotted path, as a masked autoencoder of a trainer that is the project's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("timm", reason="needs timm: pip install --no-deps -r tests/packages/requirements.txt")
pytestmark = [pytest.mark.packages, pytest.mark.filterwarnings("ignore")]

PAGE = Path(__file__).parents[2] / "docs/how-to/write-a-trainer.md"
SIZES = {"img_size": 8, "patch_size": 2, "in_chans": 1, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 64}


def test_it_trains_resumes_and_is_evaluated(trained: Any, project: Path) -> None:
    _, _, rest = PAGE.read_text().partition("<!-- file: lessons/masked.py -->\n```python\n")
    (project / "masked.py").write_text(rest.partition("```")[0])
    images = np.random.default_rng(0).normal(size=(12, 1, 8, 8)).astype("float32")
    model = {"kind": "timm.create_model", "model_name": "vit_tiny_patch16_224", **SIZES}
    trainer = {"kind": "masked.MaskedTrainer", "forward_properties": ["image"]}
    checkpoint = trained(model, {"image": images}, trainer, "--trust", "timm")
    assert "blocks.0.attn.qkv.weight" in checkpoint.tensors("model.safetensors")
