"""The data of a run, built from configs."""

import torch

from noether.config.components import DatasetBaseConfig
from noether.config.discriminated import config_class_of
from noether.data.build import build_data, build_dataset
from noether.data.sources.bundled import DigitsConfig, DigitsDataset
from noether.data.transforms import NormalizeConfig
from noether.kernel.entries import Component
from noether.spec.model import LoaderTable


class Foreign(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Knows nothing of Noether."""

    def __init__(self, size: int, offset: float = 0.0) -> None:
        self.values = torch.arange(size) + offset

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"x": self.values[index]}


def foreign_config(**options: object) -> DatasetBaseConfig:
    config = config_class_of(Foreign, "dataset").model_validate({"kind": "foreign", **options})
    config._component = Component("dataset", "foreign", Foreign, None)
    assert isinstance(config, DatasetBaseConfig)
    return config


def test_data_sets_and_transforms_are_built_from_their_configs() -> None:
    normalize = NormalizeConfig(kind="normalize", properties=["image"], method="min-max", per="property")
    data = build_data(
        {
            "train": DigitsConfig(kind="digits", split="train"),
            "test": DigitsConfig(kind="digits", split="test", transforms=[normalize]),
        },
        [normalize],
        seed=5,
    )
    assert data.keys() == ("train", "test")
    assert isinstance(build_dataset(DigitsConfig(kind="digits")), DigitsDataset)
    assert len(data.state_dict()) == 0
    _ = data.get_dataset("test")
    assert {name.rsplit("/", 2)[0] for name in data.state_dict()} == {
        "transforms/0",
        "datasets/test/transforms/0",
    }


def test_the_runs_seed_decides_the_split() -> None:
    config = DigitsConfig(kind="digits")
    one, other = (build_dataset(config, seed=seed) for seed in (1, 2))
    assert not torch.equal(one.properties["label_target"], other.properties["label_target"])


def test_a_data_set_that_is_not_ours_is_built_from_its_signature() -> None:
    data = build_data({"train": foreign_config(size=6, offset=0.5)})
    loader = data.build_loader(batch_size=6, end_update=1)
    assert sorted(next(iter(loader)).batch["x"].tolist()) == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]


def test_the_loader_table_reaches_the_loader() -> None:
    table = LoaderTable(num_workers=2, prefetch_factor=3, pin_memory=False, start_method="spawn")
    loader = build_data({"train": foreign_config(size=6)}, loader=table).build_loader(batch_size=2)
    assert (loader.num_workers, loader.prefetch_factor, loader.pin_memory) == (2, 3, False)
    assert loader.multiprocessing_context.get_start_method() == "spawn"
