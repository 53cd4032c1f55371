"""Contracts of the parts of a run: trainer, loss, model, data set, collator, transform, optimizer, schedule."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

import pytest
import torch

from noether.config.base import construct
from noether.data.dataset import View
from noether.metrics.metrics_file import MetricsFile
from noether.runs.prepare import Run
from noether.spec.load import load_spec
from noether.testing.builders import merged
from noether.testing.contract import Contract, bits, built

_LOSS = "loss/online/total"


class TrainerContract(Contract):
    """Contract of trainers."""

    role = "trainer"

    def place(self, config: dict[str, Any]) -> dict[str, Any]:
        """Put its table over that of the tiny trainer, whose `field_weights` only some kinds have."""
        other = {} if "field_weights" in dict(self.options()) else {"field_weights": None}
        return {"trainer": {**other, **config}}

    def test_accumulation_gives_the_same_update(self, tmp_path: Path) -> None:
        """Four samples at once, and two times two, end with equal weights but for rounding."""
        ends = []
        for size in (4, 2):
            with built(tmp_path, self.spec_of(self.table, trainer={"max_updates": 3, "max_batch_size": size})) as run:
                run.trainer.train(run.model)
                ends.append({name: tensor.clone() for name, tensor in run.model.state_dict().items()})
        torch.testing.assert_close(*ends, rtol=1e-3, atol=1e-5)

    def test_two_ranks_train_as_one(self, tmp_path: Path) -> None:
        """Each rank takes its share of a batch; losses and weights are those of the whole one but for rounding."""
        self.require_equal_ranks(tmp_path)

    def test_an_evaluation_leaves_it_alone(self, tmp_path: Path) -> None:
        """Training goes on as without `offline-loss`, which calls its `train_step`: no state follows evaluations."""
        watch = {"kind": "offline-loss", "every_n_updates": 1, "dataset_key": "train"}
        plain, watched = self.spec_of(self.table), self.spec_of(self.table, trainer={"callbacks": [watch]})
        self.require_equal_training(tmp_path, watched, plain)

    def test_its_losses_are_logged_by_name(self, tmp_path: Path) -> None:
        """`total` and each part."""
        keys = self.run(tmp_path, self.spec_of(self.table)).metrics
        assert _LOSS in keys, f"{_LOSS} is not logged: found {', '.join(sorted(keys))}"


class LossContract(Contract):
    """Contract of losses: `config` is what `loss_fn` of a trainer has."""

    role = "loss"

    def place(self, config: dict[str, Any]) -> dict[str, Any]:
        """Make it the loss of the tiny trainer."""
        return {"trainer": {"loss_fn": config}}

    def test_it_has_a_finite_gradient(self, tmp_path: Path) -> None:
        """Every parameter of the tiny model gets one that is finite, from one batch."""
        with built(tmp_path, self.spec_of(self.table)) as run:
            batch = run.data.first_batch(4)
            loss = run.trainer.train_step(batch, run.model).total_loss
            torch.autograd.backward(loss)
            lacking = [name for name, parameter in run.model.named_parameters() if not _is_finite(parameter.grad)]
        assert not lacking, f"no finite gradient of {', '.join(lacking)}"


class ModelContract(Contract):
    """Contract of models."""

    role = "model"

    def place(self, config: dict[str, Any]) -> dict[str, Any]:
        """Make it the model, with the optimizer of the tiny one."""
        return {"model": {"hidden": None, "out_features": None, **config}}

    def test_equal_seeds_give_equal_weights(self, tmp_path: Path) -> None:
        """Its weights come from the generators that the run has seeded."""
        spec = self.spec_of(self.table)
        states = []
        for _ in range(2):
            with built(tmp_path, spec) as run:
                states.append(bits(run.model.state_dict()))
        assert states[0] == states[1]

    def test_evaluation_is_repeatable(self, tmp_path: Path) -> None:
        """In evaluation mode the same batch gives the same outputs."""
        with built(tmp_path, self.spec_of(self.table)) as run, torch.no_grad():
            batch, model = run.data.first_batch(4), run.model.eval()
            assert bits(run.trainer.forward(batch, model)) == bits(run.trainer.forward(batch, model))

    def test_a_copy_has_the_same_weights(self, tmp_path: Path) -> None:
        """Averaged weights live in a copy."""
        with built(tmp_path, self.spec_of(self.table)) as run:
            assert bits(copy.deepcopy(run.model).state_dict()) == bits(run.model.state_dict())


class DatasetContract(Contract):
    """Contract of data sets; `spec` names the properties that the tiny trainer and model take of it."""

    role = "dataset"

    def place(self, config: dict[str, Any]) -> dict[str, Any]:
        """Train on it; the tiny test set goes, whose properties are others."""
        return {"datasets": {"train": config, "test": None}}

    def test_it_has_samples(self, tmp_path: Path) -> None:
        """A sample is a mapping from property to value."""
        with built(tmp_path, self.spec_of(self.table)) as run:
            data = self.data(run)
            assert len(data) > 0 and isinstance(data[len(data) - 1], Mapping)

    def test_a_deterministic_sample_is_always_the_same(self, tmp_path: Path) -> None:
        """If it says `deterministic`, a sample does not depend on the generators, nor on a change of an earlier one."""
        with built(tmp_path, self.spec_of(self.table)) as run:
            data = self.data(run)
            if not getattr(data, "deterministic", False):
                pytest.skip("deterministic = False: its samples are drawn")
            first = bits(data[0])
            for value in data[0].values():
                if isinstance(value, torch.Tensor) and value.dtype.is_floating_point:
                    value.add_(1)
            torch.manual_seed(1)
            assert bits(data[0]) == first

    def test_a_batch_has_the_samples(self, tmp_path: Path) -> None:
        """`__getitems__`, where it is defined, gives what the samples one by one give."""
        with built(tmp_path, self.spec_of(self.table)) as run:
            data = self.data(run)
            if not hasattr(data, "__getitems__"):
                pytest.skip("it defines no __getitems__")
            indices = [0, len(data) - 1]
            batch = data.__getitems__(indices)
            for place, index in enumerate(indices):
                assert bits({name: batch[name][place] for name in batch}) == bits(dict(data[index]))

    def test_workers_load_the_same(self, tmp_path: Path) -> None:
        """Training with a worker process gives the weights of training without one, so that it can be pickled."""
        spec = self.spec_of(self.table, trainer={"max_updates": 2})
        self.require_equal_training(tmp_path, merged(spec, {"loader": {"num_workers": 1}}), spec)

    @staticmethod
    def data(run: Run) -> Any:
        """Return the data set of a run that was built."""
        return run.data.get_dataset("train")


class CollatorContract(Contract):
    """Contract of collators: `config` is what `collate` of a data set has."""

    role = "collator"

    def place(self, config: dict[str, Any]) -> dict[str, Any]:
        """Collate the tiny training set with it."""
        return {"datasets": {"train": {"collate": config}}}

    def test_a_batch_has_every_property_of_its_sample(self, tmp_path: Path) -> None:
        """It may have more, such as a mask."""
        with built(tmp_path, self.spec_of(self.table)) as run:
            lost = run.data.get_dataset("train")[0].keys() - run.data.first_batch(1).keys()
        assert not lost, f"the batch lacks {', '.join(sorted(lost))}, which its sample has"


class TransformContract(Contract):
    """Contract of transforms."""

    role = "transform"

    def place(self, config: dict[str, Any]) -> dict[str, Any]:
        """Make it the only transform of the run."""
        return {"transforms": [config]}

    def test_its_inverse_undoes_it(self, tmp_path: Path) -> None:
        """Predictions in physical units come from the inverse."""
        with built(tmp_path, self.spec_of(self.table)) as run:
            (transform,) = run.data.transforms("train")
            sample = self.plain_sample(run)
            inverted = [name for name in sample if transform.inverts(name)]
            if not inverted:
                pytest.skip("it inverts no property of a sample")
            changed = transform(copy.deepcopy(sample))
            for name in inverted:
                back = transform.inverse(name, changed[name][None])[0]
                torch.testing.assert_close(back, sample[name], rtol=1e-4, atol=1e-5)

    def test_it_leaves_its_sample_alone(self, tmp_path: Path) -> None:
        """It returns a new one."""
        with built(tmp_path, self.spec_of(self.table)) as run:
            (transform,) = run.data.transforms("train")
            sample = self.plain_sample(run)
            before = bits(sample)
            transform(sample)
            assert bits(sample) == before

    def test_a_copy_with_its_state_transforms_equally(self, tmp_path: Path) -> None:
        """A checkpoint keeps `state_dict`, and a resumed run, `eval` and `predict` load it in place of `fit`."""
        spec = self.spec_of(self.table)
        with built(tmp_path, spec) as run, built(tmp_path, spec) as other:
            (fitted,), (loaded,) = run.data.transforms("train"), other.data.transforms("train")
            loaded.load_state_dict(copy.deepcopy(fitted.state_dict()))
            assert bits(loaded.state_dict()) == bits(fitted.state_dict())

    @staticmethod
    def plain_sample(run: Run) -> dict[str, Any]:
        """Return a training sample as it is before all transforms."""
        data = run.data.get_dataset("train")
        while isinstance(data, View):
            data = data.dataset
        return dict(data[0])


class OptimizerContract(Contract):
    """Contract of optimizers."""

    role = "optimizer"

    def place(self, config: dict[str, Any]) -> dict[str, Any]:
        """Train the tiny model with it."""
        return {"model": {"optimizer": {"lr": None, **config}}}

    def test_it_lowers_the_loss(self, tmp_path: Path) -> None:
        """In twenty updates, by more than nothing."""
        outcome = self.run(tmp_path, self.spec_of(self.table, trainer={"max_updates": 20, "log_every_n_updates": 1}))
        records = MetricsFile(outcome.run_dir / "metrics.jsonl").read()
        totals = [record.metrics[_LOSS] for record in records if _LOSS in record.metrics]
        assert totals[-1] < totals[0], f"the loss was {totals[0]:.4g}, and is {totals[-1]:.4g} after twenty updates"


class ScheduleContract(Contract):
    """Contract of schedules: `config` is what `schedule` of an optimizer has."""

    role = "schedule"

    def place(self, config: dict[str, Any]) -> dict[str, Any]:
        """Let the tiny optimizer follow it."""
        return {"model": {"optimizer": {"schedule": config}}}

    def test_it_is_a_pure_function_of_the_update(self) -> None:
        """Asked in any order, and asked again by a resumed run, it gives the same finite factor."""
        forward = [self.schedule().factor(update) for update in range(12)]
        again = self.schedule()
        assert [again.factor(update) for update in reversed(range(12))] == forward[::-1]
        assert all(isfinite(factor) and factor >= 0 for factor in forward), f"factors {forward}"

    def schedule(self) -> Any:
        """Return it for a run of twelve updates, two epochs."""
        config = load_spec(self.spec_of(self.table)).spec.model.optimizer.schedule
        return construct(config, total_updates=12, updates_per_epoch=6)


class InitializerContract(Contract):
    """Contract of initializers."""

    role = "initializer"

    def place(self, config: dict[str, Any]) -> dict[str, Any]:
        """Begin the run with it."""
        return {"initializer": config}


def _is_finite(gradient: torch.Tensor | None) -> bool:
    return gradient is not None and bool(torch.isfinite(gradient).all())
