"""A graph network of PyTorch Geometric, on batches of its own type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip(
    "torch_geometric", reason="needs torch-geometric: pip install --no-deps -r tests/packages/requirements.txt"
)
pytestmark = [pytest.mark.packages, pytest.mark.filterwarnings("ignore")]

CODE = '''
import torch
from torch import nn
from torch_geometric.data import Batch, Data
from torch_geometric.nn import GCNConv, global_mean_pool


class Graphs(torch.utils.data.Dataset):
    """Rings of different sizes; the target of each is the mean of its nodes."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        nodes = 3 + index % 4
        x = torch.randn(nodes, 3, generator=torch.Generator().manual_seed(index))
        ring = torch.arange(nodes)
        return Data(x=x, edge_index=torch.stack([ring, ring.roll(1)]), y_target=x.mean().view(1, 1))


def collate(samples):
    return Batch.from_data_list(samples)


class Graph(nn.Module):
    def __init__(self, width: int = 8):
        super().__init__()
        self.conv = GCNConv(3, width)
        self.head = nn.Linear(width, 1)

    def forward(self, x, edge_index, batch):
        return self.head(global_mean_pool(self.conv(x, edge_index).relu(), batch))
'''
TRAINER = {
    "forward_properties": ["x", "edge_index", "batch"],
    "target_properties": ["y_target"],
    "field_weights": {"y": 1.0},
}


@pytest.mark.parametrize("workers", [0, 1])
def test_it_trains_resumes_and_is_evaluated(trained: Any, project: Path, workers: int) -> None:
    (project / "graphs.py").write_text(CODE)
    data = {"kind": "graphs.Graphs", "collate": "graphs.collate"}
    checkpoint = trained({"kind": "graphs.Graph"}, data, TRAINER, workers=workers)
    assert "conv.lin.weight" in checkpoint.tensors("model.safetensors")
