"""Parameters that decay, and parameters with their own learning rate."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from noether.config.components import ParameterGroupConfig
from noether.errors import SpecError
from noether.optim.build import GroupDefaults, parameter_groups

DECAYS = GroupDefaults(weight_decay=0.1, lr=0.5)
NAMES = ["0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias"]


def group(*match: str, **settings: Any) -> ParameterGroupConfig:
    return ParameterGroupConfig(match=list(match), **settings)


def names_of(groups: list[dict[str, Any]]) -> list[list[str]]:
    return [found["names"] for found in groups]


def test_biases_and_norms_do_not_decay(network: nn.Sequential) -> None:
    decayed, spared = parameter_groups(network.named_parameters(), DECAYS)
    assert decayed["names"] == ["0.weight", "2.weight"]
    assert "weight_decay" not in decayed
    assert spared["names"] == ["0.bias", "1.weight", "1.bias", "2.bias"]
    assert spared["weight_decay"] == 0.0


def test_everything_decays_where_that_is_asked_for(network: nn.Sequential) -> None:
    (only,) = parameter_groups(network.named_parameters(), GroupDefaults(weight_decay=0.1, decay_bias_and_norm=True))
    assert only["names"] == NAMES


@pytest.mark.parametrize("weight_decay", [0.0, None])
def test_without_weight_decay_one_group_in_the_model_s_order_is_enough(
    network: nn.Sequential, weight_decay: float | None
) -> None:
    (only,) = parameter_groups(network.named_parameters(), GroupDefaults(weight_decay=weight_decay))
    assert only["names"] == NAMES
    assert "weight_decay" not in only


def test_frozen_parameters_are_in_no_group(network: nn.Sequential) -> None:
    network[0].requires_grad_(False)
    groups = parameter_groups(network.named_parameters(), DECAYS)
    assert names_of(groups) == [["2.weight"], ["1.weight", "1.bias", "2.bias"]]


def test_names_stand_beside_their_parameters(network: nn.Sequential) -> None:
    known = dict(network.named_parameters())
    for found in parameter_groups(network.named_parameters(), DECAYS, [group("1.*", lr_scale=2.0)]):
        assert all(known[name] is p for name, p in zip(found["names"], found["params"], strict=True))


# Groups of the spec


def test_a_group_has_its_own_rate_and_decay_and_comes_after_the_rest(network: nn.Sequential) -> None:
    settings = {"lr_scale": 0.1, "weight_decay": 0.3}
    rest, spared, own, own_spared = parameter_groups(network.named_parameters(), DECAYS, [group("0.*", **settings)])
    assert (rest["names"], spared["names"]) == (["2.weight"], ["1.weight", "1.bias", "2.bias"])
    assert "lr" not in rest
    assert (own["names"], own["lr"], own["weight_decay"]) == (["0.weight"], 0.05, 0.3)
    assert (own_spared["names"], own_spared["lr"], own_spared["weight_decay"]) == (["0.bias"], 0.05, 0.0)


def test_options_that_a_group_leaves_out_are_the_optimizer_s(network: nn.Sequential) -> None:
    *_, own, own_spared = parameter_groups(network.named_parameters(), DECAYS, [group("0.*", lr_scale=2.0)])
    assert "weight_decay" not in own
    assert own_spared["weight_decay"] == 0.0


def test_the_first_group_that_matches_has_the_parameter(network: nn.Sequential) -> None:
    groups = [group("0.weight", lr_scale=2.0), group("0.*", "1.*", lr_scale=3.0)]
    found = parameter_groups(network.named_parameters(), GroupDefaults(None, lr=1.0), groups)
    assert names_of(found) == [["2.weight", "2.bias"], ["0.weight"], ["0.bias", "1.weight", "1.bias"]]
    assert [entry.get("lr") for entry in found] == [None, 2.0, 3.0]


def test_a_group_may_let_its_biases_decay(network: nn.Sequential) -> None:
    groups = [group("*.bias", weight_decay=0.2, decay_bias_and_norm=True)]
    own = parameter_groups(network.named_parameters(), DECAYS, groups)[-1]
    assert (own["names"], own["weight_decay"]) == (["0.bias", "1.bias", "2.bias"], 0.2)


def test_a_group_may_spare_its_biases_though_all_others_decay(network: nn.Sequential) -> None:
    everything = GroupDefaults(weight_decay=0.1, decay_bias_and_norm=True)
    *_, spared = parameter_groups(network.named_parameters(), everything, [group("0.*", decay_bias_and_norm=False)])
    assert (spared["names"], spared["weight_decay"]) == (["0.bias"], 0.0)


def test_a_weight_decay_that_would_act_on_nothing_is_refused(network: nn.Sequential) -> None:
    with pytest.raises(SpecError) as caught:
        parameter_groups(network.named_parameters(), DECAYS, [group("*.bias", weight_decay=0.2)])
    assert "decay_bias_and_norm = true" in str(caught.value)


def test_a_pattern_that_matches_nothing_trainable_is_refused_with_names_that_exist(network: nn.Sequential) -> None:
    network[0].requires_grad_(False)
    with pytest.raises(SpecError) as caught:
        parameter_groups(network.named_parameters(), DECAYS, [group("1.*"), group("2.*", "0.*")])
    assert "2" in str(caught.value)
    assert "'0.*'" in str(caught.value)
    assert "1.weight" in str(caught.value)


def test_a_pattern_that_an_earlier_group_leaves_nothing_is_refused(network: nn.Sequential) -> None:
    with pytest.raises(SpecError) as caught:
        parameter_groups(network.named_parameters(), DECAYS, [group("*.weight", "0.bias"), group("0.*")])
    assert "'0.*'" in str(caught.value)
    assert "narrower patterns first" in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "what"), [({"lr_scale": 2.0}, "no lr"), ({"weight_decay": 0.1}, "no weight_decay")]
)
def test_a_group_cannot_set_an_option_that_the_optimizer_lacks(
    network: nn.Sequential, setting: dict[str, float], what: str
) -> None:
    with pytest.raises(SpecError) as caught:
        parameter_groups(network.named_parameters(), GroupDefaults(weight_decay=None), [group("0.*", **setting)])
    assert what in str(caught.value)


@given(st.lists(st.integers(0, 3), min_size=6, max_size=6), st.sampled_from([None, 0.0, 0.1]))
def test_every_parameter_is_in_exactly_one_group(owners: list[int], weight_decay: float | None) -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    chosen = [[name for name, owner in zip(NAMES, owners, strict=True) if owner == wanted] for wanted in (1, 2, 3)]
    groups = [group(*names, lr_scale=2.0) for names in chosen if names]
    found = parameter_groups(network.named_parameters(), GroupDefaults(weight_decay, lr=1.0), groups)
    assert sorted(name for names in names_of(found) for name in names) == sorted(NAMES)
