"""The sentences about `CallbackBase`."""

import logging

import torch

from noether.checkpoint.saved import CheckpointNames
from noether.core.callbacks import CallbackBase, PeriodicCallback
from noether.core.models.build import AdaptedModule
from noether.testing import make_counter, make_model

EVERY_UPDATE = {"every_n_updates": 1}
ROUNDS = ("before_training", "periodic_callback", "after_training")


class Diary(PeriodicCallback):
    """Notes each hook with the update, and if gradients are on."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.notes = []

    def note(self, hook):
        self.notes.append((hook, self.trainer.update_counter.update, torch.is_grad_enabled()))

    def before_training(self, *, update_counter):
        self.note("before_training")

    def track_after_accumulation_step(self, **_):
        self.note("track_after_accumulation_step")

    def track_after_update_step(self, *, update_counter, times):
        self.note("track_after_update_step")

    def periodic_callback(self, *, interval_type, update_counter, **kwargs):
        self.note("periodic_callback")

    def after_training(self, *, update_counter):
        self.note("after_training")


class Counting(CallbackBase):
    """Counts updates, and keeps the count in checkpoints."""

    updates, resumed_from = 0, None

    def track_after_update_step(self, *, update_counter, times):
        self.updates += 1

    def state_dict(self):
        return {"updates": torch.tensor(self.updates)}

    def load_state_dict(self, state_dict):
        self.updates = int(state_dict["updates"])

    def resume_from_checkpoint(self, resumption_paths, model):
        self.resumed_from = resumption_paths, model


def test_a_callback_has_the_parts_of_its_run(workshop):
    trainer, model = workshop.trainer(), make_model()
    callback = workshop.callback(CallbackBase, trainer, model)
    for name in ("data_container", "tracker", "checkpoint_writer", "metric_property_provider"):
        assert getattr(callback, name) is getattr(trainer, name)
    assert (callback.trainer, callback.model, callback.writer, callback.name) == (
        trainer,
        model,
        trainer.log_writer,
        None,
    )
    assert isinstance(callback.logger, logging.Logger)


def test_a_callback_is_without_state_by_default_and_loading_one_does_nothing(workshop):
    callback = workshop.callback(CallbackBase)
    assert callback.state_dict() is None
    assert callback.load_state_dict({"anything": torch.ones(1)}) is None


def test_the_log_writer_is_one_for_all_callbacks_of_the_run(workshop):
    trainer = workshop.train(Diary, {"kind": "checkpoint", "every_n_epochs": 1}, add_default_callbacks=True)
    assert {id(callback.writer) for callback in trainer.callbacks} == {id(trainer.log_writer)}


def test_before_training_is_called_once_before_and_after_training_once_after_the_updates(workshop):
    (diary,) = workshop.train((Diary, EVERY_UPDATE)).callbacks
    hooks = [(hook, update) for hook, update, _ in diary.notes]
    assert hooks[0] == ("before_training", 0)
    assert hooks[-1] == ("after_training", 12)
    assert (
        [hook for hook, _ in hooks].count("before_training") == [hook for hook, _ in hooks].count("after_training") == 1
    )


def test_the_hooks_of_a_run_are_called_without_gradients(workshop):
    (diary,) = workshop.train((Diary, EVERY_UPDATE)).callbacks
    assert {hook for hook, _, _ in diary.notes} == {*ROUNDS, "track_after_accumulation_step", "track_after_update_step"}
    assert not any(enabled for _, _, enabled in diary.notes)


def test_hooks_that_are_called_by_hand_run_without_gradients(workshop):
    diary, counter = workshop.callback((Diary, EVERY_UPDATE)), make_counter(update=6)
    diary.before_training(update_counter=counter)
    diary.track_after_accumulation_step(update_counter=counter)
    diary.track_after_update_step(update_counter=counter, times={})
    diary.after_update(counter)
    diary.at_eval(counter)
    diary.periodic_callback(interval_type="update", update_counter=counter)
    diary.trainer.call_after_training([diary])
    assert len(diary.notes) == 7
    assert not any(enabled for _, _, enabled in diary.notes)
    assert torch.is_grad_enabled()


def test_the_state_of_a_callback_is_in_the_trainer_s_state_and_comes_back_on_a_resume(workshop):
    first = workshop.train(Counting, max_epochs=1)
    assert first.state_dict()["callbacks"]["counting"]["updates"] == 6
    run = str(first.path_provider.run_path)
    (resumed,) = workshop.train(Counting, initializer={"kind": "resume", "path": run}).callbacks
    assert resumed.updates == 12


def test_resume_from_checkpoint_is_called_on_a_resume_with_the_run_s_paths_and_the_model(workshop):
    first, model = workshop.train(Counting, max_epochs=1), make_model()
    (alone,) = first.callbacks
    assert alone.resumed_from is None
    run = first.path_provider.run_path
    (resumed,) = workshop.train(Counting, model=model, initializer={"kind": "resume", "path": str(run)}).callbacks
    paths, given = resumed.resumed_from
    assert (paths.run_path, given) == (run.resolve(), model)


class Says(PeriodicCallback):
    def periodic_callback(self, **_):
        self.writer.add_scalar(key="quiet", value=0.2)
        self.writer.add_scalar(key="classification_accuracy", value=0.23623, logger=self.logger, format_str=".2f")


def test_a_scalar_goes_to_the_metrics_and_with_a_logger_to_stdout_in_its_format(workshop, caplog):
    caplog.set_level(logging.INFO)
    trainer = workshop.train((Says, {"every_n_epochs": 2}))
    assert workshop.metrics(trainer)[12] == {"quiet": 0.2, "classification_accuracy": 0.23623}
    said = [record.getMessage() for record in caplog.records]
    assert "classification_accuracy: 0.24" in said
    assert not any("quiet" in line for line in said)


class LogsAround(CallbackBase):
    def before_training(self, *, update_counter):
        self.writer.add_scalar("lr_of_the_plan", 0.1)

    def after_training(self, *, update_counter):
        self.writer.add_scalar("final_norm", 2.0)


def test_what_is_logged_before_and_after_training_belongs_to_the_first_and_the_last_update(workshop):
    metrics = workshop.metrics(workshop.train(LogsAround))
    assert metrics == {0: {"lr_of_the_plan": 0.1}, 12: {"final_norm": 2.0}}


class Evaluates(PeriodicCallback):
    """Calls the model by hand in every hook of a round, as in a final evaluation on the test set."""

    def evaluate(self, **_):
        self.model(x=torch.full((8, 3), 100.0))

    before_training = periodic_callback = after_training = at_eval = checkpoint_committed = run_started = evaluate


def normalised():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    model = AdaptedModule(network)
    model.optimizer_config = make_model().optimizer_config
    return model


def test_an_evaluation_by_hand_in_a_hook_of_a_round_changes_no_statistics(workshop):
    watched, alone = normalised(), normalised()
    workshop.train((Evaluates, EVERY_UPDATE), {"kind": "checkpoint", "every_n_epochs": 1}, model=watched)
    workshop.train({"kind": "checkpoint", "every_n_epochs": 1}, model=alone)
    for name, tensor in watched.state_dict().items():
        assert torch.equal(tensor, alone.state_dict()[name]), name


def test_a_callback_that_is_not_periodic_needs_no_interval_in_a_spec(tiny_spec, lab, finish):
    tiny_spec["trainer"]["callbacks"] = [{"kind": "lab.documented.callbacks.Farewell"}]
    assert finish().metrics["farewell"] == 12.0


class UsesItsParts(CallbackBase):
    """Uses the parts of its run as the documentation says."""

    def after_training(self, *, update_counter):
        self.checkpoint_writer.save("mine")
        self.writer.add_scalar("data_sets", len(self.data_container.keys()))
        self.writer.add_scalar("weights", sum(parameter.numel() for parameter in self.model.parameters()))
        self.writer.add_scalar("update", self.trainer.update_counter.update)
        self.writer.add_scalar("better_if_higher", self.metric_property_provider.higher_is_better("accuracy/test"))


def test_a_callback_saves_checkpoints_and_reads_data_model_progress_and_metric_properties(workshop):
    trainer = workshop.train(UsesItsParts)
    expected = {"data_sets": 2, "weights": 26, "update": 12, "better_if_higher": 1}
    assert workshop.metrics(trainer)[12] == expected
    assert CheckpointNames(trainer.path_provider.checkpoint_path).find("mine").saved.manifest.update == 12
