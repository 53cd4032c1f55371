"""Models, losses, data sets and callbacks keep the contracts of their roles."""

from pathlib import Path

import pytest

from noether.testing import CallbackContract, CommandContract, DatasetContract, LossContract, ModelContract

FNO = {
    "kind": "fno",
    "hidden": None,
    "out_features": None,
    "n_modes": [4, 4],
    "in_channels": 1,
    "out_channels": 1,
    "hidden_channels": 4,
    "n_layers": 1,
}
"""Without the options of the tiny model."""
TRAINER = {
    "forward_properties": ["permeability"],
    "target_properties": ["pressure_target"],
    "field_weights": {"y": None, "pressure": 1.0},
}


class OnFields:
    """The tiny spec with Darcy flow in place of its own data, and with an FNO where that is not under test."""

    model = FNO

    @pytest.fixture(autouse=True)
    def with_data(self, folder: Path) -> None:
        data = {"kind": "darcy", "folder": str(folder)}
        sets = {"train": {"part": None, **data}, "test": {"part": None, **data, "split": "test"}}
        self.spec = {"datasets": sets, "model": self.model, "trainer": TRAINER}


class TestFno(OnFields, ModelContract):
    model = {}
    config = {**FNO, "kind": "fno"}


@pytest.mark.long
class TestTfno(OnFields, ModelContract):
    model = {}
    config = {**FNO, "kind": "tfno", "rank": 0.2}


class TestUno(OnFields, ModelContract):
    model = {}
    config = {
        "kind": "uno",
        "in_channels": 1,
        "out_channels": 1,
        "hidden_channels": 4,
        "lifting_channels": 4,
        "projection_channels": 4,
        "n_layers": 3,
        "channel_mlp_skip": "linear",
        "uno_out_channels": [4, 4, 4],
        "uno_n_modes": [[4, 4], [4, 4], [4, 4]],
        "uno_scalings": [[1.0, 1.0], [0.5, 0.5], [2.0, 2.0]],
    }


@pytest.mark.long
class TestLp(OnFields, LossContract):
    config = {"kind": "lp", "p": 2}


class TestH1(OnFields, LossContract):
    config = {"kind": "h1", "periodic": False}


class TestDarcy(OnFields, DatasetContract):
    config = {"kind": "darcy"}

    @property
    def table(self):
        return self.spec["datasets"]["train"]


class TestBurgers(DatasetContract):
    config = {"kind": "burgers", "window": 2}

    @pytest.fixture(autouse=True)
    def with_data(self, folder: Path) -> None:
        self.config = {**TestBurgers.config, "folder": str(folder)}
        burgers = {"forward_properties": ["u"], "target_properties": ["u_next_target"]}
        trainer = {**burgers, "field_weights": {"y": None, "u_next": 1.0}}
        model = {**FNO, "n_modes": [4], "in_channels": 2}
        self.spec = {"datasets": {"train": {"part": None}}, "model": model, "trainer": trainer}


class TestRollout(CallbackContract):
    config = {"kind": "rollout", "every_n_updates": 2, "dataset_key": "test", "field": "u_next", "input": "u"}

    @pytest.fixture(autouse=True)
    def with_data(self, folder: Path) -> None:
        data = {"part": None, "kind": "burgers", "folder": str(folder), "window": 2}
        burgers = {"forward_properties": ["u"], "target_properties": ["u_next_target"]}
        self.spec = {
            "datasets": {"train": data, "test": {**data, "split": "test", "steps": 3}},
            "model": {**FNO, "n_modes": [4], "in_channels": 2},
            "trainer": {**burgers, "field_weights": {"y": None, "u_next": 1.0}},
        }


class TestFieldFigure(OnFields, CallbackContract):
    config = {
        "kind": "field-figure",
        "every_n_updates": 6,
        "dataset_key": "test",
        "field": "pressure",
        "input": "permeability",
        "samples": 1,
    }


class TestNeuralopData(CommandContract):
    config = "neuralop-data"

    @pytest.fixture(autouse=True)
    def with_data(self, folder: Path) -> None:
        (folder / "NOTICE").touch()
        self.arguments = [str(folder)]
