"""The order of samples is the same for every number of ranks and workers, and so is its rest from any update on."""

from pathlib import Path

import pytest
import torch
from noether_plugin_hf_datasets.dataset import HfDataset, HfDatasetConfig

from noether.data import DataContainer

UPDATE = 6  # samples, which 1, 2 and 3 ranks divide; four updates are one epoch


def container(path: Path, num_workers: int = 0, **options) -> DataContainer:
    data = HfDataset(HfDatasetConfig(kind="hf-datasets", path=str(path), **options))
    return DataContainer({"train": data}, seed=3, num_workers=num_workers)


def global_order(data: DataContainer, world_size: int, start: int = 0, end: int = 8) -> list[torch.Tensor]:
    """Return the samples of each update in their order, from the loaders of all ranks."""
    ranks = []
    for rank in range(world_size):
        loader = data.build_loader(
            batch_size=UPDATE // world_size, effective_batch_size=UPDATE, rank=rank, world_size=world_size,
            start_update=start, end_update=end,
        )  # fmt: skip
        ranks.append([tagged.batch["x"] for tagged in loader])
    return [torch.cat(parts) for parts in zip(*ranks, strict=True)]


@pytest.mark.parametrize(
    ("folder", "options"),
    [("tiny", {}), ("parquet", {"streaming": True}), ("parquet", {"streaming": True, "shuffle_block": 2})],
    ids=["mapped", "streamed", "streamed in small blocks"],
)
def test_every_world_size_has_the_same_order_also_from_the_middle_of_an_epoch(tiny_folder: Path, folder, options):
    data = container(tiny_folder / folder, **options)
    straight = global_order(data, 1)
    assert len(straight) == 8 and not torch.equal(torch.cat(straight[:4]), torch.cat(straight[4:]))
    assert len({tuple(row) for row in torch.cat(straight[:4]).tolist()}) == 24
    for world_size in (2, 3):
        assert all(map(torch.equal, global_order(data, world_size), straight))
    changed = global_order(data, 2, 0, 3) + global_order(data, 1, 3, 5) + global_order(data, 3, 5, 8)
    assert len(changed) == 8 and all(map(torch.equal, changed, straight))


def test_workers_of_two_ranks_continue_within_an_epoch(tiny_folder: Path):
    straight = global_order(container(tiny_folder / "parquet", streaming=True), 1)
    workers = container(tiny_folder / "parquet", num_workers=2, streaming=True)
    assert all(map(torch.equal, global_order(workers, 2, 5), straight[5:]))
