"""Each module's mode is restored."""

from __future__ import annotations

import pytest
from torch import nn

from noether.core.models.base import evaluating


class Merging(nn.Linear):
    """Counts the switches that it sees, as an adapter would that merges its weights."""

    switches = 0

    def train(self, mode: bool = True) -> Merging:
        self.switches += 1
        return super().train(mode)


def modes_of(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def test_each_module_gets_its_own_mode_back_also_after_an_error() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.Dropout(), nn.Linear(1, 1)))
    model[1][0].eval()
    before = modes_of(model)
    with pytest.raises(ZeroDivisionError), evaluating(model):
        assert modes_of(model) == [False] * 5
        raise ZeroDivisionError
    assert modes_of(model) == before


def test_a_trained_part_of_an_evaluated_model_keeps_its_mode() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Dropout()).eval()
    model[1].train()
    with evaluating(model):
        assert not model[1].training
    assert modes_of(model) == [False, False, True]


def test_parts_of_a_model_and_of_its_wrapper_are_restored_once() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Linear(1, 1))
    model[0].eval()
    wrapper = nn.ModuleDict({"model": model})
    with evaluating(wrapper, model):
        assert not wrapper.training
    assert modes_of(wrapper) == [True, True, False, True]


def test_switching_calls_train_of_modules_that_override_it_and_nothing_if_all_evaluate() -> None:
    model = nn.Sequential(Merging(1, 1))
    with evaluating(model), evaluating(model):
        pass
    assert model[0].switches == 2
