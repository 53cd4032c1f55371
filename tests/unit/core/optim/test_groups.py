"""Which parameters decay."""

from __future__ import annotations

from torch import nn

from noether.core.optim.groups import parameter_groups


def test_biases_and_norms_do_not_decay(network: nn.Sequential) -> None:
    decayed, spared = parameter_groups(network.named_parameters(), weight_decay=0.1, decay_bias_and_norm=False)
    assert decayed["names"] == ["0.weight", "2.weight"]
    assert "weight_decay" not in decayed
    assert spared["names"] == ["0.bias", "1.weight", "1.bias", "2.bias"]
    assert spared["weight_decay"] == 0.0


def test_everything_decays_where_that_is_asked_for(network: nn.Sequential) -> None:
    (group,) = parameter_groups(network.named_parameters(), weight_decay=0.1, decay_bias_and_norm=True)
    assert group["names"] == [name for name, _ in network.named_parameters()]


def test_without_weight_decay_one_group_in_the_model_s_order_is_enough(network: nn.Sequential) -> None:
    (group,) = parameter_groups(network.named_parameters(), weight_decay=0.0, decay_bias_and_norm=False)
    assert group["names"] == [name for name, _ in network.named_parameters()]
    assert "weight_decay" not in group


def test_frozen_parameters_are_in_no_group(network: nn.Sequential) -> None:
    network[0].requires_grad_(False)
    groups = parameter_groups(network.named_parameters(), weight_decay=0.1, decay_bias_and_norm=False)
    assert [name for group in groups for name in group["names"]] == ["2.weight", "1.weight", "1.bias", "2.bias"]


def test_names_stand_beside_their_parameters(network: nn.Sequential) -> None:
    known = dict(network.named_parameters())
    for group in parameter_groups(network.named_parameters(), weight_decay=0.1, decay_bias_and_norm=False):
        assert all(known[name] is p for name, p in zip(group["names"], group["params"], strict=True))
