"""The documented attributes and methods of a trainer, for subclasses and for callers."""

import pytest
import torch
from safetensors.torch import load

from noether.checkpoint.paths import checkpoint_folders
from noether.config.components import CallBackBaseConfig
from noether.core.callbacks.base import CallbackBase
from noether.core.callbacks.periodic import PeriodicCallback
from noether.core.initializers import InitializerBase, InitializerConfig
from noether.data.samplers import TRAINING
from noether.errors import TrainingError
from noether.kernel.entries import Component
from noether.testing import make_model, make_trainer
from noether.training.trainers import WeightedLossTrainer

OWN = {"trainer.kind": "lab.trainers.Own"}
CHECKPOINT = {"kind": "checkpoint", "every_n_epochs": 1}
WATCH = {"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test"}
ATTRIBUTES = [
    "logger", "config", "data_container", "path_provider", "main_sampler_kwargs", "device", "end_checkpoint",
    "precision", "updates_per_epoch", "skip_nan_loss_counter", "initializer", "tracker", "metric_property_provider",
    "update_counter", "log_writer", "checkpoint_writer", "callbacks", "forward_properties", "target_properties",
    "batch_keys", "total_training_updates",
]  # fmt: skip


@pytest.fixture
def trainer_of(tmp_path):
    """Makes trainers of a class by hand, each with a folder of its own, and closes their files in the end."""
    made = []

    def make(trainer_class=WeightedLossTrainer, **settings):
        known = make_trainer(tmp_path / str(len(made)), **settings)
        parts = {name: getattr(known, name) for name in ("data_container", "device", "tracker", "path_provider")}
        made.append(trainer_class(known.config, **parts))
        return made[-1]

    yield make
    for trainer in made:
        trainer.log_writer.close()


def kinds(callbacks):
    return [callback.component.kind if callback.component else type(callback).__name__ for callback in callbacks]


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_a_new_trainer_has_every_documented_attribute(trainer_of, name):
    assert hasattr(trainer_of(), name)


def test_batch_keys_are_the_forward_and_then_the_target_properties(trainer_of):
    assert trainer_of().batch_keys == ["x", "y_target"]


@pytest.mark.parametrize(
    ("limit", "updates"),
    [({"max_epochs": 2}, 12), ({"max_updates": 7}, 7), ({"max_samples": 29}, 8), ({"max_epochs": 0}, 0)],
    ids=str,
)
def test_total_training_updates_is_the_length_of_the_run_in_updates(trainer_of, limit, updates):
    assert trainer_of(**limit).total_training_updates == updates


# Choosing callbacks


def test_a_trainer_brings_callbacks_of_its_own(finish, lab):
    assert finish(OWN).metrics["seen/own"] == 1.0


def test_the_trainer_s_own_callbacks_can_be_left_out(finish, lab):
    assert "seen/own" not in finish({**OWN, "trainer.add_trainer_callbacks": False}).metrics


def test_callbacks_stand_in_the_documented_order(trainer_of):
    class Brings(WeightedLossTrainer):
        def get_trainer_callbacks(self, callback_default_args):
            return [PeriodicCallback(CallBackBaseConfig(every_n_updates=1), **callback_default_args)]

    trainer = trainer_of(Brings, add_default_callbacks=True, callbacks=[CHECKPOINT])
    found = kinds(trainer.get_all_callbacks(make_model()))
    assert found[:4] == ["online-loss", "lr", "checkpoint", "PeriodicCallback"]
    assert {"progress", "eta"} <= set(found[4:])


def test_default_intervals_and_default_callbacks_are_the_trainer_s_to_choose(finish, lab, metric_lines):
    lines = metric_lines(finish(OWN))
    fired = [line["update"] for line in lines if "optim/lr" in line["metrics"]]
    assert fired == [4, 8, 12]
    assert not any("profiling/remaining_seconds" in line["metrics"] for line in lines)
    assert "loss/online/total" in lines[-1]["metrics"]


def test_callbacks_that_only_training_calls_are_left_out_for_an_evaluation(trainer_of):
    class OnlyTrains(CallbackBase):
        def __init__(self, callback_config: CallBackBaseConfig, **kwargs):
            super().__init__(**kwargs)

    config = CallBackBaseConfig(kind="only-trains")
    config._component = Component("callback", "only-trains", OnlyTrains, None)
    trainer = trainer_of(callbacks=[WATCH])
    trainer.config.callbacks.append(config)
    assert kinds(trainer.get_user_callbacks(make_model())) == ["offline-loss", "only-trains"]
    assert kinds(trainer.get_user_callbacks(make_model(), evaluation=True)) == ["offline-loss"]


# Before, after and beside training


def test_the_beginning_and_the_end_of_training_are_points_that_get_all_callbacks_once(finish, lab):
    finish({**OWN, "trainer.add_default_callbacks": False, "trainer.callbacks": [CHECKPOINT]})
    assert (lab.parent / "points.txt").read_text().splitlines() == ["before E0_U0_S0 2", "after E2_U12_S96 2"]


def test_hooks_of_the_beginning_and_the_end_can_be_called_on_callbacks_of_choice(trainer_of):
    called = []

    class Notes(PeriodicCallback):
        def before_training(self, *, update_counter):
            called.append(("before", self.id, update_counter.update))

        def after_training(self):
            called.append(("after", self.id))

    trainer = trainer_of()
    arguments = trainer.callback_default_kwargs(make_model())
    callbacks = [Notes(CallBackBaseConfig(id=name, every_n_updates=1), **arguments) for name in "ab"]
    trainer.call_before_training(callbacks)
    trainer.call_after_training(callbacks[1:])
    assert called == [("before", "a", 0), ("before", "b", 0), ("after", "b")]


def test_eval_calls_every_callback_once_and_leaves_the_model_as_it_is(trainer_of):
    trainer, model = (
        trainer_of(callbacks=[CHECKPOINT, WATCH, {**WATCH, "dataset_key": "train"}]),
        make_model(),
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    trainer.eval(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert model.optimizers() == {}
    assert checkpoint_folders(trainer.path_provider.checkpoint_path) == []
    lines = trainer.path_provider.metrics_path.read_text().splitlines()
    assert len(lines) == 1
    assert all(f"loss/{key}/total" in lines[0] for key in ("test", "train"))


def test_eval_after_training_sees_the_trained_model(trainer_of):
    trainer, model = trainer_of(callbacks=[WATCH]), make_model()
    trainer.train(model)
    trainer.eval(model)
    *_, trained, evaluated = trainer.path_provider.metrics_path.read_text().splitlines()
    assert trained.split('"metrics"')[1] == evaluated.split('"metrics"')[1]


def test_drop_metadata_keeps_the_tensors_of_a_batch():
    batch = {"x": torch.ones(2, 3), "index": [4, 7], "path": "a.npz", "y_target": torch.zeros(2)}
    assert list(WeightedLossTrainer.drop_metadata(batch)) == ["x", "y_target"]


def test_progress_and_callbacks_go_through_the_state_of_a_trainer(trainer_of):
    class Counts(PeriodicCallback):
        rounds = 0

        def periodic_callback(self):
            self.rounds += 1

        def state_dict(self):
            return {"rounds": self.rounds}

        def load_state_dict(self, state_dict):
            self.rounds = state_dict["rounds"]

    class Brings(WeightedLossTrainer):
        def get_trainer_callbacks(self, callback_default_args):
            return [Counts(CallBackBaseConfig(id="counts", every_n_updates=1), **callback_default_args)]

    first = trainer_of(Brings, max_updates=7)
    first.train(make_model())
    second = trainer_of(Brings, max_updates=7)
    second.prepare(make_model())
    second.load_state_dict(first.state_dict())
    assert second.update_counter.cur_iteration == first.update_counter.cur_iteration
    assert [callback.rounds for callback in second.callbacks] == [7]


def test_the_initializer_puts_its_state_in_place_before_the_first_hook(trainer_of):
    order = []

    class Notes(PeriodicCallback):
        def before_training(self, *, update_counter):
            order.append("before_training")

    class Brings(WeightedLossTrainer):
        def get_trainer_callbacks(self, callback_default_args):
            return [Notes(CallBackBaseConfig(every_n_updates=1), **callback_default_args)]

    class Initializer(InitializerBase):
        def initialize(self, trainer, model):
            order.append("initialize")

    trainer = trainer_of(Brings, max_updates=1)
    trainer.initializer = Initializer(InitializerConfig())
    trainer.train(make_model())
    assert order == ["initialize", "before_training"]


def test_eval_calls_an_initializer_of_weights(trainer_of):
    class Zeros(InitializerBase):
        def initialize(self, trainer, model):
            for parameter in model.parameters():
                parameter.zero_()

    trainer, model = trainer_of(callbacks=[WATCH]), make_model()
    trainer.initializer = Zeros(InitializerConfig())
    with torch.no_grad():
        trainer.eval(model)
    expected = trainer.data_container.get_dataset("test").properties["y_target"].square().mean()
    assert trainer.log_writer.final_metrics["loss/test/total"] == pytest.approx(expected.item())


# The step and the data


def test_a_train_step_of_its_own_decides_loss_names_and_outputs(finish, lab):
    watch = {**WATCH, "output_patterns": ["output_mean"]}
    metrics = finish({"trainer.kind": "lab.trainers.StepOfItsOwn", "trainer.callbacks": [watch]}).metrics
    assert metrics["loss/online/total"] == pytest.approx(2 * metrics["loss/online/mse"])
    assert metrics["loss/test/total"] == pytest.approx(2 * metrics["loss/test/mse"])
    assert "output_mean/test" in metrics


def test_an_update_of_its_own_is_called_for_every_accumulation_step(finish, final_weights, lab):
    changes = {"trainer.max_batch_size": 4, "trainer.max_epochs": 1}
    own = finish({**changes, "trainer.kind": "lab.trainers.UpdateOfItsOwn"})
    assert (lab.parent / "points.txt").read_text().splitlines() == ["0 of 2", "1 of 2"] * 6
    assert final_weights(own) == final_weights(finish(changes))


def test_a_wrapped_model_is_what_is_called_and_the_model_s_own_weights_are_saved(finish, final_weights, lab):
    plain, wrapped = (finish({"trainer.kind": kind}) for kind in ("weighted-loss", "lab.trainers.WrapsItsModel"))
    assert load(final_weights(wrapped)).keys() == load(final_weights(plain)).keys()
    assert wrapped.metrics["loss/online/total"] != plain.metrics["loss/online/total"]


@pytest.mark.parametrize("evaluation", [False, True])
def test_a_data_loader_brings_training_batches_or_one_pass_of_each_evaluation(trainer_of, evaluation):
    trainer = trainer_of(max_epochs=1, callbacks=[WATCH])
    callbacks = trainer.get_user_callbacks(make_model())
    tags = [tag for tag, _, _ in trainer.get_data_loader(callbacks, 4, evaluation=evaluation)]
    assert tags.count(TRAINING) == (0 if evaluation else 6)
    assert len(tags) - tags.count(TRAINING) == 3  # 10 samples, 4 a batch


def test_arguments_for_the_main_sampler_reach_the_loader(trainer_of):
    trainer = trainer_of(max_epochs=1)
    trainer.main_sampler_kwargs = {"start_update": 4}
    assert len(list(trainer.get_data_loader([], 4))) == 2


def test_a_batch_that_lacks_a_property_is_an_error_that_names_it(trainer_of):
    with pytest.raises(TrainingError) as caught:
        trainer_of().train_step({"x": torch.ones(2, 3)}, make_model())
    assert "found x, expected 'y_target'" in str(caught.value)
