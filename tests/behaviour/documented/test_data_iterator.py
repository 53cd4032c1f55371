"""The sentences about `PeriodicDataIteratorCallback`."""

import pytest
import torch

from noether.config.components import PeriodicDataIteratorCallbackConfig
from noether.core.callbacks import PeriodicDataIteratorCallback
from noether.core.callbacks.display import PassBar
from noether.data.samplers import InterleavedSampler, SamplerIntervalConfig
from noether.errors import DataError
from noether.testing import make_counter, make_model

EVERY_EPOCH = {"every_n_epochs": 1, "dataset_key": "test"}


def config(**fields):
    return PeriodicDataIteratorCallbackConfig(**{**EVERY_EPOCH, **fields})


class Predicts(PeriodicDataIteratorCallback):
    """Collects predictions and targets, and notes how it was called."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.sizes, self.modes, self.seen = [], set(), []

    def process_data(self, batch, *, trainer_model):
        self.sizes.append(len(batch["x"]))
        self.modes.add((trainer_model.training, torch.is_grad_enabled()))
        return {"predictions": trainer_model(x=batch["x"])["y"], "targets": batch["y_target"]}

    def process_results(self, results, *, interval_type, update_counter, **_):
        self.seen.append((interval_type, update_counter.update, results))


def targets_of(trainer, key="test"):
    samples = trainer.data_container.get_dataset(key)
    return samples.__getitems__(list(range(len(samples))))["y_target"]


def test_the_data_set_is_processed_batch_by_batch_and_the_results_of_all_batches_at_once(workshop):
    trainer = workshop.train((Predicts, config()))
    (callback,) = trainer.callbacks
    assert callback.sizes == [4, 4, 2] * 2
    assert [(interval, update) for interval, update, _ in callback.seen] == [("epoch", 6), ("epoch", 12)]
    for *_, results in callback.seen:
        assert torch.equal(results["targets"], targets_of(trainer))
        assert results["predictions"].shape == (10, 2)


def test_process_data_is_called_without_gradients_on_a_model_in_evaluation_mode(workshop):
    assert workshop.train((Predicts, config())).callbacks[0].modes == {(False, False)}


@pytest.mark.parametrize(
    ("of_a_batch", "of_all"),
    [
        (lambda y: y, lambda y: y),
        (lambda y: {"y": y, "nested": {"sum": y.sum(1)}}, lambda y: {"y": y, "nested": {"sum": y.sum(1)}}),
        (lambda y: [y, y + 1], lambda y: [y, y + 1]),
        (lambda y: (y, -y, y * 2), lambda y: (y, -y, y * 2)),
    ],
    ids=["tensor", "dict of tensors", "list", "tuple"],
)
def test_results_are_collated_whatever_they_are(workshop, of_a_batch, of_all):
    class Returns(Predicts):
        def process_data(self, batch, *, trainer_model):
            return of_a_batch(batch["y_target"])

    trainer = workshop.train((Returns, config()), max_epochs=1)
    ((*_, results),) = trainer.callbacks[0].seen
    torch.testing.assert_close(results, of_all(targets_of(trainer)))
    assert type(results) is type(of_all(targets_of(trainer)))


class Collates(Predicts):
    def _collate_result(self, results):
        return [len(result["targets"]) for result in results]


def test_a_subclass_may_collate_the_results_of_all_batches_itself(workshop):
    trainer = workshop.train((Collates, config()), max_epochs=1)
    assert trainer.callbacks[0].seen == [("epoch", 6, [4, 4, 2])]


class Iterates(Predicts):
    def _iterate_over_dataset(self, *args, **kwargs):
        return {"all": super()._iterate_over_dataset(*args, **kwargs)}


def test_process_results_gets_what_iterate_over_dataset_returns(workshop):
    trainer = workshop.train((Iterates, config()), max_epochs=1)
    ((*_, results),) = trainer.callbacks[0].seen
    assert torch.equal(results["all"]["targets"], targets_of(trainer))


@pytest.mark.parametrize("batches", [[4, 4, 2], [10], [1] * 10], ids=str)
def test_an_iterator_of_plain_batches_is_accepted_as_data_iter(workshop, batches):
    callback = workshop.callback((Predicts, config()))
    everything = callback.data_container.get_dataset("test").__getitems__(list(range(10)))
    parts = {name: tensor.split(batches) for name, tensor in everything.items()}
    plain = ({name: parts[name][index] for name in parts} for index in range(len(batches)))
    callback.periodic_callback(
        interval_type="epoch",
        update_counter=make_counter(update=6),
        data_iter=plain,
        trainer_model=make_model(),
        batch_size=4,
    )
    ((*_, results),) = callback.seen
    assert torch.equal(results["targets"], everything["y_target"])
    assert (callback.sizes, callback.modes) == (batches, {(False, False)})


def test_the_key_of_the_data_set_and_its_sampler_come_from_the_config(workshop):
    callback = workshop.callback((Predicts, config()))
    assert callback.dataset_key == "test"
    sampler = callback.sampler_config
    assert isinstance(sampler, SamplerIntervalConfig)
    assert (len(sampler.dataset), sampler.every_n_epochs) == (10, 1)


class ChoosesItsData(Predicts):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.sampler_config = self._sampler_config_from_key(key="train", max_size=5)


def test_the_sampler_config_can_be_set(workshop):
    trainer = workshop.train((ChoosesItsData, config()), max_epochs=1)
    ((*_, results),) = trainer.callbacks[0].seen
    assert torch.equal(results["targets"], targets_of(trainer, "train")[:5])


def test_a_sampler_config_is_for_the_first_data_set_without_a_key_and_for_a_part_of_it_where_asked(workshop):
    callback = workshop.callback((Predicts, config()))
    assert len(callback._sampler_config_from_key(None).dataset) == 24  # train
    part = callback._sampler_config_from_key("test", properties={"x"}, max_size=3).dataset
    assert (len(part), part.__getitems__([0]).keys()) == (3, {"x"})
    with pytest.raises(DataError):
        callback._sampler_config_from_key("validation")


def test_the_time_spent_waiting_for_data_is_added_up_over_all_calls(workshop):
    callback = workshop.callback((Predicts, config()))
    assert callback.total_data_time == 0.0
    trainer = workshop.train((Predicts, config()))
    once, twice = workshop.train((Predicts, config()), max_epochs=1).callbacks[0], trainer.callbacks[0]
    assert once.total_data_time > 0.0
    assert twice.total_data_time > 0.0


def test_evaluation_shares_the_stream_of_training_and_never_changes_it(workshop):
    watched, alone = make_model(), make_model()
    trainer = workshop.train((Predicts, config()), model=watched)
    workshop.train(model=alone)
    assert isinstance(trainer.get_data_loader(trainer.callbacks, 4).sampler, InterleavedSampler)
    assert all(torch.equal(one, other) for one, other in zip(watched.parameters(), alone.parameters(), strict=True))


@pytest.mark.parametrize("ranks", [1, 3, 4])
def test_over_all_ranks_each_sample_is_evaluated_once_without_padding(workshop, ranks):
    sampler = workshop.callback((Predicts, config())).sampler_config
    assert sorted(index for rank in range(ranks) for index in sampler.samples_on(rank, ranks, 4)) == list(range(10))


def test_a_pass_shows_its_progress_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    bar = PassBar("val", 2, show_after=0.0)
    bar.advance()
    bar.close()
    assert "val" in capsys.readouterr().out


def test_process_data_has_to_be_defined_and_process_results_says_if_it_is_not(workshop):
    with pytest.raises(TypeError):
        workshop.callback((PeriodicDataIteratorCallback, config()))

    class Half(PeriodicDataIteratorCallback):
        def process_data(self, batch, *, trainer_model):
            return None

    with pytest.raises(NotImplementedError):
        workshop.train((Half, config()))
