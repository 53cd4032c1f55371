"""The sentences about `BaseTrainer` and `WeightedLossTrainer`."""

from typing import Any

import pytest
import torch
from torch.nn.functional import l1_loss, mse_loss

from noether.core.callbacks import CallbackBase, PeriodicCallback
from noether.core.models.build import AdaptedModule
from noether.data.samplers import TRAINING
from noether.errors import PluginError, SpecError, TrainingError
from noether.testing import make_counter, make_model
from noether.training.trainers import BaseTrainer, BaseTrainerConfig, TrainerResult, WeightedLossTrainer

BATCH = {"x": torch.linspace(-1, 1, 12).view(4, 3), "y_target": torch.linspace(0, 1, 8).view(4, 2)}
OFFLINE_LOSS = {"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test"}


class MyTrainer(BaseTrainer):
    """The example of the reference: a loss of its own."""

    def __init__(self, trainer_config: BaseTrainerConfig, **kwargs: Any) -> None:
        super().__init__(trainer_config, **kwargs)

    def loss_compute(self, forward_output, targets):
        return mse_loss(forward_output["y"], targets["y_target"])


@pytest.fixture
def as_trainer(workshop):
    """Makes a trainer of a class, with the parts of a usual one."""

    def make(trainer_class, *, main_sampler_kwargs=None, **settings):
        usual = workshop.trainer(**{"max_epochs": 1, **settings})
        config = usual.config
        if not issubclass(trainer_class, WeightedLossTrainer):
            fields = config.model_dump(exclude={"field_weights", "loss_fn", "kind"}, exclude_unset=True)
            config = BaseTrainerConfig(kind="mine", **fields)
        parts = {name: getattr(usual, name) for name in ("data_container", "device", "tracker", "path_provider")}
        workshop.trainers.append(trainer_class(config, main_sampler_kwargs=main_sampler_kwargs, **parts))
        return workshop.trainers[-1]

    return make


def loss_of(model, batch=BATCH, loss=mse_loss):
    return loss(model(x=batch["x"])["y"], batch["y_target"])


# Loss and train step


def test_a_trainer_that_defines_loss_compute_alone_trains(as_trainer):
    trainer, model = as_trainer(MyTrainer), make_model()
    samples = trainer.data_container.train.__getitems__(list(range(24)))
    before = loss_of(model, samples)
    trainer.train(model)
    assert trainer.update_counter.update == 6
    assert loss_of(model, samples) < before
    with pytest.raises(TypeError):
        as_trainer(BaseTrainer)


def test_a_trainer_with_a_train_step_of_its_own_needs_no_loss_compute(as_trainer):
    class Steps(BaseTrainer):
        def train_step(self, batch, model):
            return TrainerResult.of(loss_of(model, batch))

    class Calls(BaseTrainer):
        def train_step(self, batch, model):
            return TrainerResult.of(self.loss_compute(model(x=batch["x"]), batch))

    class Named(Calls):
        loss_compute = MyTrainer.loss_compute

    model = make_model()
    for trainer_class in (Steps, Named):
        assert torch.equal(as_trainer(trainer_class).train_step(BATCH, model).total_loss, loss_of(model))
    with pytest.raises(NotImplementedError, match="Calls defines no loss_compute"):
        as_trainer(Calls).train_step(BATCH, model)


@pytest.mark.parametrize(
    ("returned", "losses", "total"),
    [
        (lambda loss: loss, ["loss"], 1),
        (lambda loss: [loss, 2 * loss], ["loss_0", "loss_1"], 3),
        (lambda loss: {"near": loss, "far": 3 * loss}, ["near", "far"], 4),
        (lambda loss: ({"near": loss}, {"logits": loss + 1}), ["near"], 1),
    ],
    ids=["tensor", "list", "dict", "with additional outputs"],
)
def test_loss_compute_returns_sub_losses_to_log_and_may_add_outputs_for_callbacks(as_trainer, returned, losses, total):
    class Returns(MyTrainer):
        def loss_compute(self, forward_output, targets):
            return returned(super().loss_compute(forward_output, targets))

    model = make_model()
    result = as_trainer(Returns).train_step(BATCH, model)
    assert isinstance(result, TrainerResult)
    assert list(result.losses_to_log) == losses
    assert result.total_loss.item() == pytest.approx(total * loss_of(model).item())
    outputs = result.additional_outputs
    assert outputs is None or torch.equal(outputs["logits"], result.total_loss + 1)


class StepOfItsOwn(MyTrainer):
    def train_step(self, batch, model):
        loss = 2 * loss_of(model, batch)
        return TrainerResult(total_loss=loss, losses_to_log={"doubled": loss}, additional_outputs={"seen": loss})


class Follows(PeriodicCallback):
    """Keeps what the tracking hook is given."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.losses, self.outputs = [], []

    def track_after_accumulation_step(self, *, losses, update_outputs, **_):
        self.losses.append(losses)
        self.outputs.append(update_outputs)


def test_train_step_can_be_overridden_and_its_result_reaches_the_callbacks(workshop, as_trainer):
    trainer, model = as_trainer(StepOfItsOwn), make_model()
    follows = workshop.callback((Follows, {"every_n_epochs": 1}), trainer, model)
    trainer.get_user_callbacks = lambda model, evaluation=False: [follows]
    trainer.train(model)
    assert all(losses.keys() == {"total", "doubled"} for losses in follows.losses)
    assert all(
        torch.equal(outputs["seen"], losses["total"])
        for outputs, losses in zip(follows.outputs, follows.losses, strict=True)
    )


class StepsItself(torch.nn.Module):
    """A model with a train step of its own."""

    def __init__(self, result):
        super().__init__()
        self.linear, self.result = torch.nn.Linear(3, 2), result

    def forward(self, x):
        return {"y": self.linear(x)}

    def train_step(self, batch):
        return self.result(3 * loss_of(self, batch))


@pytest.mark.parametrize("result", [lambda loss: TrainerResult(loss, {"own": loss}), lambda loss: {"own": loss}])
def test_by_default_the_train_step_of_the_model_is_called_if_it_has_one(as_trainer, result):
    network = StepsItself(result)
    model = AdaptedModule(network)
    model.optimizer_config = make_model().optimizer_config
    found = as_trainer(MyTrainer).train_step(BATCH, model)
    assert list(found.losses_to_log) == ["own"]
    assert found.total_loss.item() == pytest.approx(3 * loss_of(network).item())
    trainer, before = as_trainer(MyTrainer), network.linear.weight.clone()
    trainer.train(model)
    assert not torch.equal(network.linear.weight, before)


# Callbacks


class HasCallbacks(WeightedLossTrainer):
    def get_trainer_callbacks(self, callback_default_args):
        return [CallbackBase(**callback_default_args, name="own")]


def kinds(callbacks):
    return [callback.component.kind if callback.component else callback.name for callback in callbacks]


def test_all_callbacks_are_the_default_ones_those_of_the_user_and_those_of_the_trainer(as_trainer):
    trainer, model = as_trainer(HasCallbacks, add_default_callbacks=True, callbacks=[OFFLINE_LOSS]), make_model()
    assert kinds(trainer.get_user_callbacks(model)) == ["offline-loss"]
    defaults = kinds(trainer.get_default_callbacks(trainer.callback_default_kwargs(model)))
    assert {"dataset-stats", "param-count", "lr", "online-loss"} <= set(defaults)
    found = kinds(trainer.get_all_callbacks(model))
    assert sorted(found) == sorted([*defaults, "offline-loss", "own"])
    assert found.index("online-loss") < found.index("offline-loss") < found.index("own")


def test_default_and_trainer_callbacks_can_be_left_out(as_trainer):
    model = make_model()
    without = {"add_default_callbacks": False, "add_trainer_callbacks": False}
    assert kinds(as_trainer(HasCallbacks, **without).get_all_callbacks(model)) == []
    assert kinds(as_trainer(HasCallbacks, add_default_callbacks=False).get_all_callbacks(model)) == ["own"]


def test_the_default_intervals_are_those_of_the_config(as_trainer):
    trainer = as_trainer(MyTrainer, log_every_n_updates=3, track_every_n_epochs=1)
    assert trainer.get_default_callback_intervals() == {"log": {"every_n_updates": 3}, "track": {"every_n_epochs": 1}}


class Notes(PeriodicCallback):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.notes = []

    def before_training(self, *, update_counter):
        self.notes.append("before_training")

    def periodic_callback(self, *, interval_type, **_):
        self.notes.append(interval_type)

    def after_training(self, *, update_counter):
        self.notes.append("after_training")


def test_call_before_and_call_after_training_call_the_hook_of_the_given_callbacks(workshop):
    notes = workshop.callback((Notes, {"every_n_epochs": 1}))
    notes.trainer.call_before_training([notes])
    notes.trainer.call_after_training([notes])
    assert notes.notes == ["before_training", "after_training"]


def test_eval_evaluates_with_all_callbacks_and_changes_nothing(workshop):
    trainer, model = workshop.trainer((Notes, {"every_n_epochs": 9}), OFFLINE_LOSS), make_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer.eval(model)
    trainer.log_writer.close()
    assert trainer.callbacks[0].notes == ["eval"]
    assert workshop.metrics(trainer)[0]["loss/test/total"] > 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert workshop.checkpoints(trainer) == {}


# State


class Counts(PeriodicCallback):
    seen = 0

    def track_after_update_step(self, *, update_counter, times):
        self.seen += 1

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state_dict):
        self.seen = state_dict["seen"]


COUNTS = (Counts, {"every_n_epochs": 1})


def test_the_state_dict_holds_the_progress_and_load_state_dict_takes_it_back(workshop):
    state = workshop.train(COUNTS, max_epochs=1).state_dict()
    assert (state["epoch"], state["update"], state["sample"]) == (1, 6, 24)
    other = workshop.trainer(COUNTS)
    other.load_state_dict(state)
    assert other.update_counter.cur_iteration == make_counter(update=6).cur_iteration


@pytest.mark.parametrize("is_prepared", [False, True])
def test_load_state_dict_before_train_restores_the_callbacks_as_well(workshop, is_prepared):
    state = workshop.train(COUNTS, max_epochs=1).state_dict()
    trainer, model = workshop.trainer(COUNTS), make_model()
    if is_prepared:
        trainer.prepare(model)
    trainer.load_state_dict(state)
    trainer.train(model)
    assert trainer.update_counter.update == trainer.callbacks[0].seen == 12
    trainer.train(model)  # the state was for the training that came after it
    assert trainer.callbacks[0].seen == 0


def test_the_resume_initializer_of_the_config_continues_another_run(workshop):
    first = workshop.train(COUNTS, max_epochs=1)
    run = str(first.path_provider.run_path)
    straight, continued = make_model(), make_model(seed=9)
    workshop.train(COUNTS, model=straight)
    trainer = workshop.trainer(COUNTS, initializer={"kind": "resume", "path": run})
    trainer.prepare(continued)
    assert trainer.update_counter.update == 0
    trainer.apply_resume_initializer(continued)
    assert trainer.update_counter.update == 6
    trainer.train(continued)
    assert all(torch.equal(one, two) for one, two in zip(straight.parameters(), continued.parameters(), strict=True))


# Data


@pytest.mark.parametrize("evaluation", [False, True])
def test_get_data_loader_has_training_batches_and_the_passes_of_callbacks_or_the_passes_alone(workshop, evaluation):
    trainer = workshop.trainer(callbacks=[OFFLINE_LOSS], max_epochs=1)
    tags = [tag for tag, *_ in trainer.get_data_loader(trainer.get_user_callbacks(make_model()), 4, evaluation)]
    assert tags.count(TRAINING) == (0 if evaluation else 6)
    assert len(tags) - tags.count(TRAINING) == 3


class KeepsBatches(PeriodicCallback):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.x = []

    def track_after_accumulation_step(self, *, batch, **_):
        self.x.append(batch["x"])


def order_of(workshop, as_trainer, options, **settings):
    trainer, model = as_trainer(WeightedLossTrainer, main_sampler_kwargs=options, **settings), make_model()
    keeps = workshop.callback((KeepsBatches, {"every_n_epochs": 1}), trainer, model)
    trainer.get_user_callbacks = lambda model, evaluation=False: [keeps]
    trainer.train(model)
    return trainer, torch.cat(keeps.x)


def test_main_sampler_kwargs_reach_the_main_sampler(workshop, as_trainer):
    usual, x = order_of(workshop, as_trainer, None)
    samples = usual.data_container.train.__getitems__(list(range(24)))["x"]
    assert sorted(x.tolist()) == sorted(samples.tolist())
    assert torch.equal(order_of(workshop, as_trainer, {"shuffle": False})[1], samples)
    other = order_of(workshop, as_trainer, {"seed": 5})[1]
    assert not torch.equal(other, x)
    assert sorted(other.tolist()) == sorted(samples.tolist())
    rest = {"effective_batch_size": 7}
    dropped, x = order_of(workshop, as_trainer, {"drop_last": True}, **rest)
    assert (dropped.updates_per_epoch, len(x)) == (3, 21)
    filled, x = order_of(workshop, as_trainer, {"drop_last": False, "shuffle": False}, **rest)
    assert (filled.updates_per_epoch, filled.update_counter.update) == (4, 4)
    assert torch.equal(x, torch.cat([samples, samples[:4]]))
    with pytest.raises(SpecError):
        as_trainer(MyTrainer, main_sampler_kwargs={"shufle": False})


def test_drop_metadata_keeps_the_tensors_of_a_batch(workshop):
    assert BaseTrainer.drop_metadata({**BATCH, "id": ["a", "b"], "index": 3}).keys() == BATCH.keys()


# The update


def test_update_runs_forward_and_backward_pass_and_the_optimizer_after_the_last_accumulation_step(workshop):
    trainer, model = workshop.trainer(), make_model()
    trainer.prepare(model)
    before = next(model.parameters()).clone()
    for step, moved in ((0, False), (1, True)):
        losses, outputs, times = trainer.update(BATCH, model, model, 2, step)
        assert torch.equal(next(model.parameters()), before) is not moved
    assert losses.keys() == {"total", "y_loss"}
    assert outputs is None
    assert times["forward_time"].elapsed_seconds > 0


def test_an_update_that_one_trainer_is_given_is_the_one_that_is_called(workshop):
    trainer, steps = workshop.trainer(max_epochs=1), []

    def update(*args, **kwargs):
        steps.append(args[4])
        return type(trainer).update(trainer, *args, **kwargs)

    trainer.update = update
    trainer.train(make_model())
    assert steps == [0] * 6


def test_the_model_is_wrapped_for_the_ranks_and_compiled_where_that_is_asked_for(workshop, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model: ("compiled", model))
    trainer, model = workshop.trainer(), make_model()
    assert trainer.wrap_model(model) is trainer.wrap_ddp(model) is trainer.wrap_compile(model) is model
    assert workshop.trainer(use_torch_compile=True).wrap_model(model) == ("compiled", model)


# Attributes


def test_the_trainer_knows_the_length_of_its_run_and_the_properties_of_a_batch(workshop):
    trainer = workshop.trainer(max_samples=29)
    assert (trainer.total_training_updates, trainer.updates_per_epoch) == (8, 6)
    assert trainer.end_checkpoint.sample == 29
    assert trainer.batch_keys == [*trainer.forward_properties, *trainer.target_properties] == ["x", "y_target"]
    assert (trainer.callbacks, trainer.initializer, trainer.main_sampler_kwargs) == ([], None, None)
    assert trainer.device == torch.device("cpu")


def test_the_counter_of_skipped_updates_can_be_assigned(workshop):
    trainer = workshop.trainer()
    assert trainer.skip_nan_loss_counter == 0
    trainer.skip_nan_loss_counter = 7
    assert trainer.skip_nan_loss_counter == 7


OWN_NAMES = ["state", "seconds", "applied", "run", "one_update", "batch_size", "signals", "last_loss"]


@pytest.mark.parametrize("name", OWN_NAMES)
def test_a_name_of_the_trainer_itself_is_refused_wherever_a_subclass_uses_it(as_trainer, name):
    class Before(MyTrainer):
        def __init__(self, trainer_config, **kwargs):
            setattr(self, name, 1)
            super().__init__(trainer_config, **kwargs)

    class After(MyTrainer):
        def __init__(self, trainer_config, **kwargs):
            super().__init__(trainer_config, **kwargs)
            setattr(self, name, 1)

    for trainer_class in (Before, After, type("InItsClass", (MyTrainer,), {name: 1})):
        with pytest.raises(PluginError):
            as_trainer(trainer_class)
    with pytest.raises(PluginError):
        setattr(as_trainer(MyTrainer), name, 1)  # as in a train step


def test_a_method_that_only_the_trainer_calls_is_refused_in_a_subclass(as_trainer):
    with pytest.raises(PluginError):
        as_trainer(type("Prepares", (MyTrainer,), {"prepare": lambda self: None}))


# The loss by field


@pytest.mark.parametrize(("name", "function"), [(None, mse_loss), ("l1", l1_loss)])
def test_the_loss_of_a_field_is_mse_unless_loss_fn_names_another_and_is_weighted(workshop, name, function):
    fields = {} if name is None else {"loss_fn": name}
    trainer, model = workshop.trainer(field_weights={"y": 2.0}, **fields), make_model()
    result = trainer.train_step(BATCH, model)
    assert result.losses_to_log.keys() == {"y_loss"}
    assert result.total_loss.item() == pytest.approx(2 * loss_of(model, loss=function).item())
    assert trainer.loss_items == [("y", 2.0)]


def test_the_loss_function_is_called_with_input_and_target_for_each_field(workshop):
    trainer, model, called = workshop.trainer(), make_model(), []

    def loss(*, input, target):
        called.append((input, target))
        return mse_loss(input, target)

    trainer.loss_fn = loss
    trainer.train_step(BATCH, model)
    ((given, target),) = called
    assert torch.equal(given, model(x=BATCH["x"])["y"])
    assert torch.equal(target, BATCH["y_target"])


def test_a_field_without_output_or_target_is_an_error_that_names_it(workshop):
    with pytest.raises(TrainingError) as caught:
        workshop.trainer().loss_compute({"z": torch.ones(4, 2)}, {"y_target": BATCH["y_target"]})
    assert "'y'" in str(caught.value)
