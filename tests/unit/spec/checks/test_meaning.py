"""Valid specs whose settings contradict each other."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field

from noether.config.components import CallBackBaseConfig, DatasetBaseConfig
from noether.config.discriminated import Discriminated
from noether.core.callbacks.periodic import PeriodicCallback
from noether.data.dataset import Dataset
from noether.spec.checks import meaning_notes
from noether.spec.load import LoadedSpec, load_spec

HERE = Path(__file__).stem


class Guest:
    """A run plugin, whose metrics nobody knows."""


class WatchConfig(CallBackBaseConfig):
    metric_key: str = Field(description="What it reads.")
    higher_is_better: bool | None = Field(None, description="Which way it gets better.")


class Watch(PeriodicCallback):
    """Reads a metric of its round and compares it; logs nothing."""

    def __init__(self, callback_config: WatchConfig, **kwargs: Any):
        super().__init__(callback_config, **kwargs)

    @classmethod
    def produced_metrics(cls, config, facts):
        return ()

    @classmethod
    def consumed_metrics(cls, config):
        return (config.metric_key,)


class Quiet(PeriodicCallback):
    """Does not declare its metrics."""


class Scores(PeriodicCallback):
    """Logs a score, and says that higher ones are better."""

    @classmethod
    def produced_metrics(cls, config, facts):
        return ("Score",)

    @classmethod
    def metric_directions(cls, config):
        return {"Score*": "higher"}


class ParentConfig(CallBackBaseConfig):
    eval_callbacks: list[Annotated[Any, Discriminated("callback")]] = Field([], description="Children.")


class Parent(PeriodicCallback):
    """Has children, and puts a prefix before their metrics."""

    def __init__(self, callback_config: ParentConfig, **kwargs: Any):
        super().__init__(callback_config, **kwargs)

    @classmethod
    def produced_metrics(cls, config, facts):
        return ()

    @classmethod
    def child_metric_prefixes(cls, config):
        return ("ema=0.9/", "ema=0.99/")


class Stepparent(Parent):
    """Inherits the declared metrics of another class, which are not taken as complete."""


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return {
        "name": "digits",
        "datasets": {"train": {"kind": "digits"}, "test": {"kind": "digits", "split": "test"}},
        "model": {"kind": "mlp", "out_features": {"label": 10}, "optimizer": {"kind": "SGD", "lr": 0.1}},
        "trainer": {
            "kind": "weighted-loss",
            "max_epochs": 4,
            "effective_batch_size": 64,
            "forward_properties": ["image"],
            "target_properties": ["label_target"],
            "field_weights": {"label": 1.0},
            "loss_fn": "cross-entropy",
        },
        "trackers": [],
    }


@pytest.fixture
def load(digits: dict[str, Any]) -> Callable[..., LoadedSpec]:
    def load_with(changes: dict[str, Any] | None = None, **options: Any) -> LoadedSpec:
        return load_spec(digits, set=changes, trust=[HERE], **options)

    return load_with


def watch(key: str, **more: Any) -> dict[str, Any]:
    return {"kind": f"{HERE}.Watch", "metric_key": key, "every_n_epochs": 1, **more}


def loss(**more: Any) -> dict[str, Any]:
    return {"kind": "offline-loss", "dataset_key": "test", "every_n_epochs": 1, **more}


QUIET = {"kind": f"{HERE}.Quiet", "every_n_epochs": 1, "id": "quiet"}


# Metrics that are read


def test_a_consumer_after_its_producer_is_right(load):
    assert meaning_notes(load({"trainer.callbacks": [loss(), watch("loss/test/label_loss")]}).spec) == []


def test_a_consumer_before_its_producer_is_reported_to_move(refused):
    found = refused({"trainer.callbacks": [watch("loss/test/total"), loss()]})
    assert found.codes == ["late-metric trainer.callbacks.0.metric_key"]
    assert "place it after 'offline-loss'" in found.text


def test_default_producers_come_before_everybody(load):
    load({"trainer.track_every_n_updates": 5, "trainer.callbacks": [watch("loss/online/total")]})


def test_default_reporters_come_after_everybody(refused):
    interval = {"every_n_epochs": None, "every_n_updates": 1}
    found = refused({"trainer.callbacks": [watch("profiling/data_time", higher_is_better=False, **interval)]})
    assert found.codes == ["late-metric trainer.callbacks.0.metric_key"]
    assert "'train-time'" in found.text


def test_intervals_in_epochs_fire_after_the_others_wherever_they_stand(load, refused):
    in_updates = {"every_n_epochs": None, "every_n_updates": 2}
    load({"trainer.callbacks": [watch("loss/test/total"), loss(**in_updates)]})
    found = refused({"trainer.callbacks": [loss(), watch("loss/test/total", **in_updates)]})
    assert found.codes == ["late-metric trainer.callbacks.1.metric_key"]
    assert "intervals in epochs fire after the others" in found.text


def test_a_producer_that_skips_rounds_of_its_consumer_is_reported(load, refused):
    load({"trainer.callbacks": [loss(every_n_epochs=1), watch("loss/test/total", every_n_epochs=2)]})
    found = refused({"trainer.callbacks": [loss(every_n_epochs=2), watch("loss/test/total", every_n_epochs=1)]})
    assert found.codes == ["late-metric trainer.callbacks.1.metric_key"]
    assert "'offline-loss' logs it at every_n_epochs=2 and 'watch' reads it at every_n_epochs=1" in found.text


def test_what_is_logged_once_before_training_is_in_no_later_round(refused):
    found = refused({"trainer.callbacks": [watch("model/parameters", higher_is_better=False)]})
    assert found.codes == ["late-metric trainer.callbacks.0.metric_key"]
    assert "'param-count'" in found.text


def test_an_unlogged_metric_is_reported_with_the_nearest_one(refused):
    found = refused({"trainer.callbacks": [loss(), watch("loss/tset/total")]})
    assert found.codes == ["unlogged-metric trainer.callbacks.1.metric_key"]
    assert "Did you mean 'loss/test/total'?" in found.text


def test_no_hint_suggests_a_metric_that_a_reader_makes_of_the_missing_one(refused):
    follows = {"kind": "best-checkpoint", "every_n_epochs": 1, "metric_key": "loss/val/total"}
    found = refused({"trainer.callbacks": [follows, watch("loss/val/total")]})
    assert found.codes == [f"unlogged-metric trainer.callbacks.{number}.metric_key" for number in (0, 1)]
    assert "loss/val/total/best" not in found.text


def test_a_metric_of_a_field_without_a_weight_is_never_logged(refused):
    assert (
        "Did you mean 'loss/test/label_loss'?"
        in refused({"trainer.callbacks": [loss(), watch("loss/test/lbl_loss")]}).text
    )


def test_a_component_without_declared_metrics_makes_it_a_note(load):
    spec = load({"trainer.callbacks": [QUIET, watch("my_error")]}).spec
    (note,) = meaning_notes(spec)
    assert (note.code, note.path) == ("unlogged-metric", ("trainer", "callbacks", 1, "metric_key"))
    assert "'quiet'" in note.message


@pytest.mark.parametrize("plugins", [{"plugins": [f"{HERE}.Guest"]}, {}])
def test_a_run_plugin_may_log_anything(load, refused, plugins):
    changes = {"expect": {"my/error": {"max": 1.0}}}
    if plugins:
        load(changes, **plugins)
    else:
        assert refused(changes).codes == ['unlogged-metric expect."my/error"']


def parent(*children: dict[str, Any], kind: str = "Parent") -> dict[str, Any]:
    return {"kind": f"{HERE}.{kind}", "every_n_epochs": 1, "eval_callbacks": list(children)}


def test_children_read_what_their_siblings_log(load, refused):
    load({"trainer.callbacks": [parent(loss(), watch("loss/test/total"))]})
    found = refused({"trainer.callbacks": [parent(watch("loss/test/total"), loss())]})
    assert found.codes == ["late-metric trainer.callbacks.0.eval_callbacks.0.metric_key"]


def test_children_do_not_read_what_others_log(refused):
    found = refused({"trainer.callbacks": [loss(), parent(watch("loss/test/total"))]})
    assert found.codes == ["unlogged-metric trainer.callbacks.1.eval_callbacks.0.metric_key"]
    assert '"ema=0.9/loss/test/total"' in found.text


def test_a_mistake_of_a_child_is_reported_once_and_in_the_names_of_its_siblings(refused):
    found = refused({"trainer.callbacks": [parent(loss(), watch("loss/tset/total"))]})
    assert found.codes == ["unlogged-metric trainer.callbacks.0.eval_callbacks.1.metric_key"]
    assert "Did you mean 'loss/test/total'?" in found.text


def test_a_child_leaves_out_the_prefix_of_its_parent(refused):
    found = refused({"trainer.callbacks": [parent(loss(), watch("ema=0.99/loss/test/total"))]})
    assert found.codes == ["unlogged-metric trainer.callbacks.0.eval_callbacks.1.metric_key"]
    assert "remove the prefix" in found.text


def test_metrics_of_children_can_be_expected_under_their_prefix(load, refused):
    family = {"trainer.callbacks": [parent(loss())]}
    load(family | {"expect": {"ema=0.99/loss/test/total": {"max": 1.0}}})
    found = refused(family | {"expect": {"loss/test/total": {"max": 1.0}}})
    assert found.codes == ['unlogged-metric expect."loss/test/total"']


def test_what_a_base_class_says_is_not_taken_to_be_all(load):
    (note,) = meaning_notes(
        load({"trainer.callbacks": [parent(kind="Stepparent")], "expect": {"my/error": {"max": 1.0}}}).spec
    )
    assert (note.code, note.path) == ("unlogged-metric", ("expect", "my/error"))
    assert "'stepparent'" in note.message


# Directions


def test_a_comparison_needs_a_direction(refused):
    found = refused({"trainer.callbacks": [QUIET, watch("score")]})
    assert found.codes == ["unknown-direction trainer.callbacks.1.metric_key"]
    assert "set higher_is_better = true or higher_is_better = false" in found.text


def test_the_callback_that_logs_a_metric_may_declare_its_direction(load):
    scores = {"kind": f"{HERE}.Scores", "every_n_epochs": 1}
    load({"trainer.callbacks": [scores, watch("Score")], "expect": {"best/Score": {"max": 1.0}}})


def test_a_comparison_of_a_neutral_metric_needs_one_too(refused):
    found = refused({"trainer.callbacks": [watch("optim/lr", every_n_epochs=1)]})
    assert found.codes == ["unknown-direction trainer.callbacks.0.metric_key"]


def test_a_direction_that_is_given_is_enough(load):
    load({"trainer.callbacks": [QUIET, watch("score", higher_is_better=True)]})


# Expectations


def test_an_expectation_of_an_unlogged_metric_is_refused_with_the_nearest(refused):
    found = refused({"expect": {"loss/test/totl": {"max": 1.0}}, "trainer.callbacks": [loss()]})
    assert found.codes == ['unlogged-metric expect."loss/test/totl"']
    assert "Did you mean 'loss/test/total'?" in found.text


@pytest.mark.parametrize(
    "key",
    ["loss/test/total", "best/loss/test/total", "loss/online/label_loss", "model/parameters", "optim/lr"],
)
def test_an_expectation_of_what_is_logged_is_right(load, key):
    assert meaning_notes(load({"expect": {key: {"max": 1.0}}, "trainer.callbacks": [loss()]}).spec) == []


def test_the_best_of_a_metric_without_direction_is_refused(refused):
    found = refused({"expect": {"best/model/parameters": {"max": 1.0}}})
    assert found.codes == ['unknown-direction expect."best/model/parameters"']


def test_without_default_callbacks_their_metrics_are_gone(refused):
    changes = {"trainer.add_default_callbacks": False, "expect": {"optim/lr": {"max": 1.0}}}
    assert refused(changes).codes == ['unlogged-metric expect."optim/lr"']


# Intervals


@pytest.mark.parametrize(
    ("limit", "interval", "length"),
    [
        ({"max_epochs": 4}, {"every_n_epochs": 5}, "4 epochs"),
        ({"max_updates": 9}, {"every_n_updates": 10}, "9 updates"),
        ({"max_updates": 1}, {"every_n_samples": 65}, "64 samples"),
        ({"max_samples": 65}, {"every_n_updates": 3}, "2 updates"),
        ({"max_epochs": 4, "start_at_epoch": 3}, {"every_n_epochs": 3}, "4 epochs"),
    ],
)
def test_an_interval_that_never_fires_is_reported(refused, limit, interval, length):
    limits = {"trainer.max_epochs": None} | {f"trainer.{name}": value for name, value in limit.items()}
    found = refused(limits | {"trainer.callbacks": [loss(every_n_epochs=None) | interval]})
    assert found.codes == [f"never-fires trainer.callbacks.0.{next(iter(interval))}"]
    assert length in found.text


@pytest.mark.parametrize(
    ("limit", "interval"),
    [
        ({"max_epochs": 5}, {"every_n_epochs": 5}),
        ({"max_epochs": 1}, {"every_n_updates": 1000}),  # it depends on the size of the data
        ({"max_updates": 1}, {"every_n_epochs": 1}),
        ({"max_updates": 1}, {"every_n_samples": 64}),
        ({"max_updates": 0}, {"every_n_updates": 7}),  # evaluates once, whatever the interval
    ],
)
def test_an_interval_that_may_fire_is_right(load, limit, interval):
    limits = {"trainer.max_epochs": None} | {f"trainer.{name}": value for name, value in limit.items()}
    load(limits | {"trainer.callbacks": [loss(every_n_epochs=None) | interval]})


def test_a_callback_that_acts_at_the_end_makes_it_a_note(load):
    (note,) = meaning_notes(load({"trainer.callbacks": [{"kind": "checkpoint", "every_n_epochs": 9}]}).spec)
    assert (note.code, note.path) == ("never-fires", ("trainer", "callbacks", 0, "every_n_epochs"))


# Properties


@pytest.mark.parametrize(
    "changes",
    [
        {"trainer.forward_properties": ["imag"]},
        {"trainer.callbacks": [loss(properties=["imag"])]},
        {"transforms": [{"kind": "normalize", "properties": ["imag"]}]},
    ],
)
def test_an_unknown_property_is_reported_with_the_nearest_one(refused, changes):
    found = refused(changes)
    assert [code.partition(" ")[0] for code in found.codes] == ["unknown-property"]
    assert "Did you mean 'image'?" in found.text
    assert "it has image, label_target" in found.text


def test_a_data_set_that_has_to_be_read_for_it_is_not_asked(load):
    load({"datasets.train": {"kind": "file", "path": "nowhere.npz"}, "trainer.forward_properties": ["anything"]})


@pytest.mark.parametrize(
    ("callbacks", "place", "key"),
    [
        ([loss(), loss(max_size=4)], "1", "loss/test/total"),
        ([loss(), loss(every_n_epochs=None, every_n_updates=2, max_size=4)], "1", "loss/test/total"),
        ([loss(), loss()], "1", "loss/test/total"),
        ([parent(loss(), loss(max_size=4))], "0.eval_callbacks.1", "ema=0.9/loss/test/total"),
        ([parent(loss()), parent(loss(max_size=4))], "1.eval_callbacks.0", "ema=0.9/loss/test/total"),
    ],
    ids=["of other samples", "of other samples at other updates", "twice", "of one parent", "of two parents"],
)
def test_a_metric_of_two_callbacks_is_reported_at_both(refused, callbacks, place, key):
    found = refused({"trainer.callbacks": callbacks})
    assert found.codes == [f"duplicate-metric trainer.callbacks.{place}"]
    assert f'"{key}"' in found.text


def test_callbacks_of_different_metrics_are_right(load):
    best = {"kind": "best-checkpoint", "every_n_epochs": 1, "metric_key": "loss/test/total", "eval_callbacks": [loss()]}
    load({"trainer.callbacks": [loss(), loss(dataset_key="train"), parent(loss()), best]})
    load({"trainer.callbacks": [loss(), loss(every_n_epochs=None, every_n_updates=2)]})  # the same at other updates
    load({"trainer.callbacks": [{"kind": "lr", "every_n_updates": 2}]})  # a default callback logs the same


class DeclaringConfig(DatasetBaseConfig):
    collate: bool = Field(True, description="An option of its own.")


class Declaring(Dataset):
    """Declares its properties, and has an option with the name of a key of other data sets."""

    def __init__(self, config: DeclaringConfig):
        super().__init__(config)

    @classmethod
    def known_properties(cls, config):
        return ("real", "y_target")


def test_an_option_named_collate_adds_no_properties(refused):
    found = refused({"datasets.train": {"kind": f"{HERE}.Declaring"}, "trainer.forward_properties": ["imag"]})
    assert "unknown-property trainer.forward_properties.0" in found.codes
