import copy
import inspect
import pickle
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from noether.config.components import ModelBaseConfig
from noether.config.discriminated import config_class_of
from noether.config.signature import SignatureConfig
from noether.errors import PluginError

OPTIMIZERS = [
    optimizer
    for optimizer in vars(torch.optim).values()
    if inspect.isclass(optimizer)
    and issubclass(optimizer, torch.optim.Optimizer)
    and optimizer is not torch.optim.Optimizer
]


def _options(target: Any, role: str) -> dict[str, Any]:
    """Return the options that a spec can give, with their defaults (`...` where one is needed)."""
    config_class = config_class_of(target, role)
    assert issubclass(config_class, SignatureConfig)
    own = {
        name: field
        for name, field in config_class.model_fields.items()
        if name not in config_class.derived_from[1].model_fields
    }
    return {name: ... if field.is_required() else field.default for name, field in own.items()}


def test_what_toml_can_express_is_an_option_and_nothing_else(foreign: ModuleType):
    assert _options(foreign.Typed, "model") == {
        "width": ...,
        "rates": [0.1, 1.0],
        "mode": "a",
        "side": foreign.Side.LEFT,
        "scale": 1.0,
        "pair": None,
        "window": (1, 2),
        "path": None,
        "table": None,
        "loose": None,
        "activation": None,
        "by_index": None,
        "device": None,
    }


def test_options_are_strict_and_take_the_forms_that_json_has(foreign: ModuleType):
    config_class = config_class_of(foreign.Typed, "model")
    text = '{"width": 3, "scale": 2, "pair": [1, 2.5], "side": "left", "path": "a/b", "table": {"a": [1]}}'
    config = config_class.model_validate_json(text, strict=True)
    assert (config.pair, config.path, config.side) == ((1.0, 2.5), Path("a/b"), foreign.Side.LEFT)
    for wrong in (
        '{"width": "3"}',
        '{"width": 1.5}',
        '{"width": 1, "mode": "c"}',
        '{"width": 1, "part": 1}',
        '{"width": 1, "pair": [1, null]}',
        "{}",
    ):
        with pytest.raises(ValidationError):
            config_class.model_validate_json(wrong, strict=True)


def test_a_default_that_toml_cannot_express_is_left_to_the_class(foreign: ModuleType):
    config_class = config_class_of(foreign.Typed, "model")
    assert config_class(width=1).arguments().keys() & {"activation", "pair"} == set()
    assert config_class(width=1, activation="relu").arguments()["activation"] == "relu"


def test_parameters_without_types_are_guessed_from_their_defaults(foreign: ModuleType):
    assert _options(foreign.Untyped, "model") == {
        "width": ...,
        "depth": 2,
        "rate": 0.5,
        "name": "x",
        "flag": False,
        "extra": None,
        "marker": None,
    }
    config_class = config_class_of(foreign.Untyped, "model")
    assert config_class.model_validate_json('{"width": 1, "depth": 0.5, "extra": [1]}', strict=True).depth == 0.5
    with pytest.raises(ValidationError):
        config_class.model_validate_json('{"width": 1, "flag": 1}', strict=True)


def test_the_class_gets_the_arguments_of_its_config(foreign: ModuleType):
    config = config_class_of(foreign.Untyped, "model")(width=3, frozen=["a"])
    assert foreign.Untyped(**config.arguments()).given == (3, 2, 0.5, "x", False, None, foreign.SENTINEL)


def test_options_of_a_parent_count_where_keywords_are_passed_on(foreign: ModuleType):
    assert {"alpha", "width", "depth"} <= _options(foreign.Child, "model").keys()
    assert _options(foreign.Child, "model")["depth"] == 7
    assert list(_options(foreign.Positional, "model")) == ["alpha"]


def test_a_parameter_with_the_name_of_our_field_is_refused(foreign: ModuleType):
    with pytest.raises(PluginError) as caught:
        config_class_of(foreign.Clashing, "model")
    assert "'frozen'" in str(caught.value)
    assert "foreign_classes.Clashing" in str(caught.value)


def test_a_left_out_parameter_may_have_any_name(foreign: ModuleType):
    assert list(_options(foreign.HarmlesslyNamed, "model")) == ["width"]


def test_a_derived_config_is_of_its_role_and_described(foreign: ModuleType):
    config_class = config_class_of(foreign.Typed, "model")
    assert issubclass(config_class, ModelBaseConfig)
    assert config_class is config_class_of(foreign.Typed, "model")
    assert all(field.description for field in config_class.model_fields.values())


def test_a_derived_config_can_be_sent_to_a_worker(foreign: ModuleType):
    config = config_class_of(foreign.Untyped, "model")(kind="m", width=3, frozen=["a"])
    assert pickle.loads(pickle.dumps(config)) == config
    assert copy.deepcopy(config) == config


def test_a_loss_has_the_options_of_its_function(foreign: ModuleType):
    assert _options(foreign.distance, "loss") == {"power": 2.0}
    assert _options(nn.functional.huber_loss, "loss") == {"reduction": "mean", "delta": 1.0}
    assert _options(nn.functional.cross_entropy, "loss")["label_smoothing"] == 0.0


def test_torch_layers_have_their_options():
    assert _options(nn.Linear, "model") == {"in_features": ..., "out_features": ..., "bias": True}
    assert _options(nn.LSTM, "model")["hidden_size"] is ...
    assert "mode" not in _options(nn.LSTM, "model")


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda optimizer: optimizer.__name__)
def test_every_torch_optimizer_has_all_of_its_options(optimizer: type[torch.optim.Optimizer]):
    known = set(inspect.signature(optimizer.__init__).parameters) - {"self", "params"}
    assert _options(optimizer, "optimizer").keys() == known


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda optimizer: optimizer.__name__)
def test_every_torch_optimizer_is_built_with_its_own_defaults(optimizer: type[torch.optim.Optimizer]):
    weights = [nn.Parameter(torch.zeros(2, 2))]
    config = config_class_of(optimizer, "optimizer")(kind=optimizer.__name__)
    assert optimizer(weights, **config.arguments()).defaults == optimizer(weights).defaults


def test_a_pair_of_numbers_or_tensors_is_a_pair_of_numbers():
    config_class = config_class_of(torch.optim.AdamW, "optimizer")
    assert config_class.model_validate_json('{"betas": [0.5, 1]}', strict=True).betas == (0.5, 1.0)
    with pytest.raises(ValidationError):
        config_class.model_validate_json('{"betas": [0.5]}', strict=True)
