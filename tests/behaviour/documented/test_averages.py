"""The sentences about `EmaCallback`."""

import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file

from noether.core.callbacks import PeriodicCallback
from noether.core.callbacks.periodic import iterator_callbacks
from noether.errors import SpecError, TrainingError
from noether.testing import make_model

NESTED = {"kind": "children.Child", "every_n_updates": 2}
OVER_DATA = {"kind": "children.GoesThroughData", "every_n_epochs": 1, "dataset_key": "test"}
SAVES = ("save_weights", "save_last_weights", "save_latest_weights")


def ema(*saves, **fields):
    flags = {name: name in saves for name in SAVES}
    return {"kind": "ema", "every_n_updates": 2, "target_factors": [0.5], **flags, **fields}


class History(PeriodicCallback):
    """Keeps the weights before training and after each update."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.weights = []

    def keep(self, **_):
        self.weights.append({name: tensor.double() for name, tensor in self.model.state_dict().items()})

    before_training = track_after_update_step = keep


def average_by_hand(history, factor=0.5):
    average = history[0]
    for weights in history[1:]:
        average = {name: factor * average[name] + (1 - factor) * weights[name] for name in weights}
    return average


def close_to(found, expected):
    return found.keys() == expected.keys() and all(
        torch.allclose(found[name].double(), expected[name], rtol=1e-5, atol=1e-6) for name in found
    )


def train(workshop, *callbacks, model=None, **settings):
    trainer = workshop.trainer(*callbacks, **{"max_updates": 7, **settings})
    trainer.checkpoint_writer.keep_last = 10
    trainer.train(model or make_model())
    trainer.log_writer.close()
    return trainer


def averages_in(trainer, update, factor=0.5):
    folder = trainer.path_provider.checkpoint_path / f"step-{update:012d}"
    return load_file(folder / "callbacks" / "ema" / f"{factor}.safetensors")


def test_the_average_of_each_factor_follows_each_update(workshop):
    trainer = train(workshop, (History, {"every_n_updates": 1}), ema(*SAVES, target_factors=[0.5, 0.9]))
    history = trainer.callbacks[0].weights
    for factor in (0.5, 0.9):
        assert close_to(averages_in(trainer, 4, factor), average_by_hand(history[:5], factor))
        assert close_to(averages_in(trainer, 7, factor), average_by_hand(history, factor))


@pytest.mark.parametrize(
    ("saves", "updates"),
    [
        (("save_weights",), {2, 4, 6}),
        (("save_latest_weights",), {6}),  # each takes the place of the one before
        (("save_last_weights",), set()),
        (("save_weights", "save_latest_weights"), {2, 4, 6}),
    ],
    ids=str,
)
def test_each_save_flag_decides_for_itself_and_the_latest_averages_are_overwritten(workshop, saves, updates):
    trainer = train(workshop, ema(*saves))
    files = workshop.checkpoints(trainer)
    assert set(files) == {*updates, 7}
    assert all("callbacks/ema/0.5.safetensors" in files[update] for update in files)


def test_children_run_on_the_averages_at_their_own_schedule_under_a_prefix_for_each_factor(workshop, children):
    trainer = train(
        workshop,
        (History, {"every_n_updates": 1}),
        ema(target_factors=[0.5, 0.9], every_n_updates=None, every_n_epochs=5, eval_callbacks=[NESTED]),
    )
    history, metrics = trainer.callbacks[0].weights, workshop.metrics(trainer)
    for factor in (0.5, 0.9):
        seen = {update: line.get(f"ema={factor}/weights/update") for update, line in metrics.items()}
        for update in (2, 4, 6):
            expected = average_by_hand(history[: update + 1], factor)
            assert seen[update] == pytest.approx(children.weights(iter(expected.values())), rel=1e-4)
        assert seen.get(7) is None


def test_the_live_weights_are_back_after_the_children_and_training_is_the_same(workshop, children):
    watched, alone = make_model(), make_model()
    train(workshop, ema(eval_callbacks=[NESTED, OVER_DATA]), model=watched)
    train(workshop, model=alone)
    assert all(torch.equal(one, other) for one, other in zip(watched.parameters(), alone.parameters(), strict=True))


def test_before_and_after_training_are_forwarded_to_the_children_on_the_live_weights(workshop, children):
    model = make_model()
    before = children.weights(model.parameters())
    metrics = workshop.metrics(train(workshop, ema(eval_callbacks=[NESTED]), model=model))
    assert metrics[0]["ema=0.5/weights/before_training"] == pytest.approx(before)
    assert metrics[7]["ema=0.5/weights/after_training"] == pytest.approx(children.weights(model.parameters()))


def test_at_eval_calls_all_children_on_the_averages(workshop, children):
    trainer = workshop.trainer(ema(eval_callbacks=[NESTED, OVER_DATA]))
    trainer.eval(make_model())
    trainer.log_writer.close()
    assert children.Child.notes == [("eval", 0)]
    assert workshop.metrics(trainer)[0]["ema=0.5/samples"] == 10


def test_get_children_lists_the_children_of_all_factors_whose_data_comes_through_the_shared_loader(workshop, children):
    callback = workshop.callback(ema(target_factors=[0.5, 0.9], eval_callbacks=[NESTED, OVER_DATA]))
    assert set(callback.eval_callbacks) == {0.5, 0.9}
    assert callback.get_children() == [child for group in callback.eval_callbacks.values() for child in group]
    assert len(iterator_callbacks([callback])) == 2


def resumed(workshop, source, **fields):
    """Train for one more update from the end of a run, and return the averages that this began with."""
    run = source.path_provider.run_path
    trainer = workshop.trainer(ema(*SAVES, **fields), max_updates=8, initializer={"kind": "resume", "path": str(run)})
    model, found = make_model(), {}
    trainer.prepare(model)
    trainer.apply_resume_initializer(model)
    (average,) = trainer.callbacks[0].averages.values()
    found |= {name: tensor.clone() for name, tensor in average.state().items()}
    return found, model


def test_a_resume_continues_with_the_averages_of_the_checkpoint(workshop):
    source = train(workshop, (History, {"every_n_updates": 1}), ema(*SAVES))
    found, _ = resumed(workshop, source)
    assert close_to(found, average_by_hand(source.callbacks[0].weights))


def test_without_averages_in_the_checkpoint_they_come_from_an_older_one_or_begin_with_the_current_weights(
    workshop, caplog
):
    plain = train(workshop, (History, {"every_n_updates": 1}))
    found, model = resumed(workshop, plain)
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())
    assert any(record.levelno == logging.WARNING for record in caplog.records)
    older = train(workshop, (History, {"every_n_updates": 1}), ema("save_weights"), max_updates=6)
    steps = "checkpoints/step-{:012d}"
    shutil.copytree(plain.path_provider.run_path / steps.format(7), older.path_provider.run_path / steps.format(7))
    found, _ = resumed(workshop, older)
    assert close_to(found, average_by_hand(older.callbacks[0].weights))


def test_model_paths_choose_parts_of_the_model(workshop, composite):
    trainer = train(workshop, ema(*SAVES, model_paths=["encoder"]), model=composite)
    assert {name.split(".")[0] for name in averages_in(trainer, 6)} == {"encoder"}


@pytest.mark.parametrize("path", ["composite_model.encoder", "composite_model.encoder.layers"])
def test_a_path_may_begin_with_composite_model(workshop, composite, path):
    trainer = train(workshop, ema(*SAVES, model_paths=[path]), model=composite)
    assert {name.split(".")[0] for name in averages_in(trainer, 6)} == {"encoder"}


def test_a_path_of_no_part_is_an_error_before_training(workshop, composite):
    with pytest.raises(SpecError):
        train(workshop, ema(model_paths=["composite_model.encodre"]), model=composite)


def test_averages_of_a_whole_composite_can_be_restored(workshop, composite):
    averages = averages_in(train(workshop, ema(*SAVES), model=composite), 7)
    composite.load_state_dict(averages, strict=True)


def test_apply_ema_follows_the_model_in_place(workshop):
    model = make_model()
    callback = workshop.callback(ema(), model=model)
    average = callback.averages[None, 0.5]
    tensors = {name: tensor.data_ptr() for name, tensor in average.state().items()}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    callback.apply_ema(model, None, 0.5)
    for name, tensor in average.state().items():
        torch.testing.assert_close(tensor, before[name] + 0.5)
        assert tensor.data_ptr() == tensors[name]
    with pytest.raises(TrainingError):
        callback.apply_ema(make_model(), None, 0.5)
