"""The sentences about `CheckpointCallback` and `BestCheckpointCallback`."""

import logging

import pytest
import torch
from safetensors.torch import load_file

from noether.checkpoint.saved import CheckpointNames
from noether.core.callbacks import PeriodicCallback
from noether.testing import make_counter, make_model

WEIGHTS, OPTIMIZER = "model.safetensors", "optimizer.safetensors"
METRIC = "loss/val/total"
ADAM = {"kind": "AdamW", "lr": 0.01}  # has a state, unlike plain SGD
FLAGS = ("save_weights", "save_optim", "save_latest_weights", "save_latest_optim")


def checkpoint(*flags, **fields):
    return {"kind": "checkpoint", "every_n_updates": 2, **{name: name in flags for name in FLAGS}, **fields}


def parts(workshop, trainer):
    """Return the weights and the optimizer of each checkpoint but the last one, which ends the run."""
    found = workshop.checkpoints(trainer)
    return {update: files & {WEIGHTS, OPTIMIZER} for update, files in found.items() if update < 7}


def train(workshop, *callbacks, model=None):
    trainer = workshop.trainer(*callbacks, max_updates=7)
    trainer.checkpoint_writer.keep_last = 10
    trainer.train(model or make_model())
    trainer.log_writer.close()
    return trainer


def names_of(trainer):
    return CheckpointNames(trainer.path_provider.checkpoint_path)


def weights_of(trainer, name):
    return names_of(trainer).find(name).tensors()


def test_a_checkpoint_is_saved_at_its_interval_under_the_iteration_and_at_the_end_as_last(workshop):
    trainer = train(workshop, checkpoint(*FLAGS))
    known = names_of(trainer).known()
    assert {"E0_U2_S8", "E0_U4_S16", "E1_U6_S24", "E1_U7_S28", "last", "latest"} == set(known)


@pytest.mark.parametrize(
    ("flags", "kept", "newest"),
    [
        (FLAGS, {WEIGHTS, OPTIMIZER}, {WEIGHTS, OPTIMIZER}),
        (("save_weights",), {WEIGHTS}, {WEIGHTS}),
        (("save_optim",), {OPTIMIZER}, {OPTIMIZER}),
        (("save_weights", "save_latest_optim"), {WEIGHTS}, {WEIGHTS, OPTIMIZER}),
        (("save_optim", "save_latest_weights"), {OPTIMIZER}, {WEIGHTS, OPTIMIZER}),
        (("save_latest_weights", "save_latest_optim"), None, {WEIGHTS, OPTIMIZER}),
        (("save_latest_weights",), None, {WEIGHTS}),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else "",
)
def test_each_flag_decides_for_itself_and_the_latest_parts_are_overwritten(workshop, flags, kept, newest):
    trainer = workshop.trainer(checkpoint(*flags), max_updates=7)
    trainer.checkpoint_writer.keep_last = 10
    seen = []
    commit = trainer.checkpoint_writer.commit

    def committed(state):
        folder = commit(state)
        seen.append((state.update, parts(workshop, trainer)))
        return folder

    trainer.checkpoint_writer.commit = committed
    trainer.train(make_model(optimizer=ADAM))
    for update, found in seen[:3]:
        older = {} if kept is None else dict.fromkeys(range(2, update, 2), kept)
        assert found == {**older, update: newest}
    assert list(workshop.checkpoints(trainer))[-1] == 7


def test_parts_that_are_cut_off_leave_a_checkpoint_that_can_be_read(workshop):
    trainer = train(workshop, checkpoint("save_weights", "save_latest_optim"), model=make_model(optimizer=ADAM))
    for name in ("E0_U2_S8", "E0_U4_S16"):
        saved = names_of(trainer).find(name).saved
        assert not saved.manifest.resumable
        make_model().load_state_dict(saved.tensors(WEIGHTS), strict=True)
        assert {path.name for path in saved.folder.iterdir()} >= {WEIGHTS, "manifest.json"}
        assert not (saved.folder / OPTIMIZER).exists()


def test_the_parts_of_a_composite_that_model_names_lists_are_saved(workshop, composite):
    fields = {"model_names": ["encoder"]}
    trainer = train(workshop, checkpoint("save_weights", **fields), model=composite)
    assert {name.split(".")[0] for name in weights_of(trainer, "E0_U2_S8")} == {"encoder"}
    trainer = train(workshop, checkpoint("save_weights"), model=composite)
    assert {name.split(".")[0] for name in weights_of(trainer, "E0_U2_S8")} == {"encoder", "decoder"}


@pytest.mark.parametrize("kind", ["checkpoint", "best"])
def test_model_names_are_ignored_with_a_note_if_the_model_is_not_a_composite(workshop, caplog, kind):
    caplog.set_level(logging.INFO)
    saving = (
        checkpoint("save_weights", model_names=["encoder"]) if kind == "checkpoint" else best(model_names=["encoder"])
    )
    trainer = train(workshop, (Scripted, {"every_n_updates": 1}), saving)
    name = "E0_U2_S8" if kind == "checkpoint" else BEST
    assert weights_of(trainer, name).keys() == make_model().state_dict().keys()
    assert any("model_names" in record.getMessage() for record in caplog.records)


# The best one

BEST = "best_model.loss.val.total"


class Scripted(PeriodicCallback):
    """Logs a loss that is given for each update."""

    losses = (3.0, 1.0, 2.0, 4.0, 5.0, 0.5, 0.7)

    def periodic_callback(self, *, update_counter, **_):
        self.writer.add_scalar(METRIC, self.losses[update_counter.update - 1])


LOSSES = (Scripted, {"every_n_updates": 1})


def best(**fields):
    return {"kind": "best-checkpoint", "every_n_updates": 1, "metric_key": METRIC, **fields}


class History(PeriodicCallback):
    """Keeps the weights after each update."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.weights = {}

    def track_after_update_step(self, *, update_counter, times):
        self.weights[update_counter.update] = {n: t.clone() for n, t in self.model.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_the_model_is_saved_whenever_the_metric_has_a_new_best_value(workshop):
    trainer = train(workshop, (History, {"every_n_updates": 1}), LOSSES, best())
    assert same(weights_of(trainer, BEST), trainer.callbacks[0].weights[6])
    assert set(workshop.checkpoints(trainer)) == {1, 2, 6, 7}


def test_each_tolerance_keeps_the_best_model_until_it_is_exceeded_and_the_best_of_all_is_kept_as_well(workshop):
    trainer = train(workshop, (History, {"every_n_updates": 1}), LOSSES, best(tolerances=[2, 5]))
    history, callback = trainer.callbacks[0].weights, trainer.callbacks[2]
    assert same(weights_of(trainer, f"{BEST}.tolerance=2"), history[2])  # three intervals without improvement: exceeded
    assert same(weights_of(trainer, f"{BEST}.tolerance=5"), history[6])
    assert same(weights_of(trainer, BEST), history[6])
    assert callback.tolerances_is_exceeded == {2: True, 5: False}


def test_after_training_the_best_value_is_logged_for_each_tolerance(workshop):
    metrics = workshop.metrics(train(workshop, LOSSES, best(tolerances=[2, 5])))[7]
    found = {key.removeprefix(f"{METRIC}/"): value for key, value in metrics.items() if "/best" in key}
    assert found == {"best": 0.5, "best/tolerance=2": 1.0, "best/tolerance=5": 0.5}


def test_the_best_checkpoint_of_a_composite_has_the_parts_that_model_names_lists(workshop, composite):
    trainer = train(workshop, LOSSES, best(model_names=["decoder"]), model=composite)
    assert {name.split(".")[0] for name in weights_of(trainer, BEST)} == {"decoder"}


def test_frozen_weights_are_left_out_if_asked_for(workshop):
    model = make_model()
    next(model.parameters()).requires_grad_(False)
    frozen = next(iter(model.state_dict()))
    for saved in (True, False):
        trainer = train(workshop, LOSSES, best(save_frozen_weights=saved), model=model)
        folder = trainer.path_provider.checkpoint_path / "step-000000000006"
        assert (frozen in load_file(folder / WEIGHTS)) is saved


def test_a_metric_that_was_not_logged_is_a_key_error(workshop):
    with pytest.raises(KeyError):
        train(workshop, best())


def test_best_value_and_tolerance_counter_can_be_assigned(workshop):
    callback = workshop.callback(best(tolerances=[3]))
    assert (callback.best_metric_value, callback.tolerance_counter) == (float("inf"), 0)
    callback.best_metric_value, callback.tolerance_counter = 1.0, 3
    callback.writer.add_scalar(METRIC, 2.0)
    callback.periodic_callback(interval_type="update")
    assert (callback.best_metric_value, callback.tolerance_counter) == (1.0, 4)
    assert callback.tolerances_is_exceeded == {3: True}


def test_a_resume_continues_with_tolerances_and_leaves_the_loaded_state_as_it_is(workshop):
    callback = train(workshop, LOSSES, best(tolerances=[2, 5])).callbacks[1]
    state = callback.state_dict()
    given = {**state, "kept": dict(state["kept"])}
    again = workshop.callback(best(tolerances=[2, 5]))
    again.load_state_dict(given)
    assert given == state == again.state_dict()
    again.before_training(update_counter=make_counter(update=7))


# Children of the best checkpoint


NESTED = {"kind": "children.Child", "every_n_epochs": 9}
OVER_DATA = {"kind": "children.GoesThroughData", "dataset_key": "test"}
PREFIX = "best=loss.val.total/"


def test_children_are_called_on_each_new_best_whatever_their_schedule_with_a_prefix_of_their_own(workshop, children):
    trainer = train(workshop, LOSSES, best(eval_callbacks=[NESTED, OVER_DATA], tolerances=[2]))
    assert [note for note in children.Child.notes if note[0] == "eval"] == [("eval", 1), ("eval", 2), ("eval", 6)]
    metrics = workshop.metrics(trainer)
    assert {update for update in metrics if f"{PREFIX}samples" in metrics[update]} == {1, 2, 6}
    assert metrics[6][f"{PREFIX}samples"] == 10
    assert f"{PREFIX}weights/eval" in metrics[6]


def test_before_and_after_training_are_forwarded_to_the_children_in_any_case(workshop, children):
    train(workshop, LOSSES, best(eval_callbacks=[NESTED]))
    assert children.Child.notes[0] == ("before_training", 0)
    assert children.Child.notes[-1] == ("after_training", 7)


def test_children_that_go_through_data_have_a_loader_of_their_own(workshop, children):
    callback = workshop.callback(best(eval_callbacks=[NESTED, OVER_DATA]))
    assert [type(child).__name__ for child in callback.eval_callbacks] == ["Child", "GoesThroughData"]
    assert [type(child).__name__ for child in callback.get_children()] == ["Child"]


def test_in_an_evaluation_children_are_called_unconditionally_and_nothing_is_saved(workshop, children):
    trainer = workshop.trainer(best(eval_callbacks=[NESTED, OVER_DATA]))
    trainer.eval(make_model())
    trainer.log_writer.close()
    assert children.Child.notes == [("eval", 0)]
    assert workshop.metrics(trainer)[0][f"{PREFIX}samples"] == 10
    assert workshop.checkpoints(trainer) == {}
    assert trainer.callbacks[0].best_metric_value == float("inf")
