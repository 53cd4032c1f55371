"""Best checkpoints, round by round."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from noether.config.metric_facts import MetricFacts, UnknownDirectionError
from noether.core.callbacks import BestCheckpointCallback, BestCheckpointCallbackConfig
from noether.core.callbacks.checkpoint.saving import best_key, best_tag
from noether.core.callbacks.periodic import iterator_callbacks
from noether.core.callbacks.tree import participants_of
from noether.core.models.composite import CompositeModel
from noether.errors import SpecError
from noether.testing import make_callback, make_counter, make_model, make_trainer

METRIC = "loss/test/total"
BEST = best_tag(METRIC)
ON_TEST = {"kind": "offline-loss", "id": "again", "dataset_key": "test"}
EMA = {"kind": "ema", "target_factors": [0.5, 0.9], "eval_callbacks": [{**ON_TEST, "every_n_epochs": 1}]}
AT_BEST = {"kind": "best-metric", "source_metric_key": METRIC, "target_metric_keys": [METRIC]}


class Story:
    """Simulates rounds for one callback: logs the metric, fires the interval, commits the requested checkpoint."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.trainer = make_trainer(folder)
        self.model = settings.pop("model", None) or make_model()
        self.settings = {"kind": "best-checkpoint", "every_n_updates": 1, "metric_key": METRIC, **settings}
        self.update = 0
        self.begin()

    def begin(self) -> None:
        self.callback: BestCheckpointCallback = make_callback(self.settings, self.trainer, self.model)
        self.trainer.callbacks = [self.callback]
        participants_of(self.trainer.callbacks)

    @property
    def writer(self) -> Any:
        return self.trainer.checkpoint_writer

    @property
    def names(self) -> dict[str, int]:
        """The updates that names stand for."""
        return {name: step.update for name, step in self.writer.names.items()}

    @property
    def keys(self) -> list[str]:
        """The metrics of this round."""
        keys: list[str] = self.trainer.log_writer.keys()
        return keys

    def fire(self, value: float | None, interval_type: Any = "update") -> None:
        """Log a value and let the interval fire, without the boundary."""
        if value is not None:
            self.trainer.log_writer.add_scalar(METRIC, value)
        self.callback.periodic_callback(
            interval_type=interval_type,
            update_counter=make_counter(update=self.update),
            trainer_model=self.model,
            data_iter=iter(()),
            batch_size=4,
        )

    def commit(self) -> None:
        self.trainer.log_writer.discard()
        if self.writer.pending is not None:
            self.trainer.update_counter.update = self.update
            self.writer.commit(self.trainer.capture_state(self.model))

    def play(self, *values: float) -> Story:
        for value in values:
            self.update += 1
            self.fire(value)
            self.commit()
        return self

    def resume(self) -> None:
        state = self.callback.state_dict()
        self.begin()
        self.callback.load_state_dict(state)

    def end(self) -> dict[str, float]:
        """End training; return the metrics logged then."""
        self.callback.after_training(update_counter=make_counter(update=self.update))
        logged = self.trainer.log_writer.current_metrics()
        self.commit()
        return logged


def test_a_better_value_moves_the_name_of_the_best(tmp_path: Path) -> None:
    story = Story(tmp_path).play(3.0, 4.0, 2.0, 5.0)
    assert story.names == {BEST: 3}
    assert story.callback.best_metric_value == 2.0


@pytest.mark.parametrize("worse", [2.0, math.nan, math.inf, -math.inf], ids=str)
def test_neither_an_equal_value_nor_one_that_is_not_finite_is_the_best(worse: float, tmp_path: Path) -> None:
    assert Story(tmp_path).play(worse, 2.0, worse).names == {BEST: 2 if worse != 2.0 else 1}


def test_a_higher_value_is_better_where_the_config_says_so(tmp_path: Path) -> None:
    assert Story(tmp_path, higher_is_better=True).play(1.0, 3.0, 2.0).names == {BEST: 2}


@pytest.mark.parametrize(("metric", "higher"), [(METRIC, False), ("accuracy/test/label", True)])
def test_the_key_of_the_metric_says_which_way_it_gets_better(metric: str, higher: bool, tmp_path: Path) -> None:
    assert Story(tmp_path, metric_key=metric).callback.higher_is_better is higher


def test_a_metric_of_unknown_direction_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(UnknownDirectionError) as error:
        Story(tmp_path, metric_key="temperature")
    assert "higher_is_better = true" in str(error.value.hint)


def test_before_the_first_best_the_attributes_are_as_documented(tmp_path: Path) -> None:
    callback = Story(tmp_path, tolerances=[5, 2], model_names=["model"]).callback
    assert (callback.metric_key, callback.model_names, callback.save_frozen_weights) == (METRIC, ["model"], True)
    assert (callback.higher_is_better, callback.best_metric_value) == (False, math.inf)
    assert (callback.tolerances_is_exceeded, callback.tolerance_counter) == ({5: False, 2: False}, 0)
    assert callback.eval_callbacks == callback.get_children() == []
    assert Story(tmp_path, higher_is_better=True).callback.best_metric_value == -math.inf


def test_a_missing_metric_is_a_key_error_that_lists_what_is_there(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.trainer.log_writer.add_scalar("other", 1.0)
    with pytest.raises(KeyError) as error:
        story.fire(None)
    assert repr(METRIC) in str(error.value)
    assert "'other'" in str(error.value)


def test_a_save_holds_weights_only(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.fire(1.0)
    request = story.writer.pending
    assert request.weights and request.frozen_weights and request.model_names is None
    assert not request.optimizer


def composite() -> CompositeModel:
    return CompositeModel(parts={"encoder": make_model(), "decoder": make_model()})


@pytest.mark.parametrize(
    ("asked", "saved"), [(["encoder"], {"encoder"}), (["decoder", "encoder"], None), (None, None)], ids=str
)
def test_parts_of_a_composite_can_be_saved_alone(asked: list[str] | None, saved: Any, tmp_path: Path) -> None:
    story = Story(tmp_path, model=composite(), model_names=asked, save_frozen_weights=False)
    story.fire(1.0)
    assert story.writer.pending.model_names == saved
    assert not story.writer.pending.frozen_weights


def test_a_part_that_does_not_exist_is_refused_before_training(tmp_path: Path) -> None:
    story = Story(tmp_path, model=composite(), model_names=["encoder", "head"])
    with pytest.raises(SpecError) as caught:
        story.callback.before_training(update_counter=make_counter())
    assert "['head']" in caught.value.message
    assert "encoder, decoder" in str(caught.value)


# Tolerances


def test_a_tolerance_names_the_best_at_the_moment_when_it_is_exceeded_and_never_moves(tmp_path: Path) -> None:
    story = Story(tmp_path, tolerances=[1, 2])
    story.play(3.0, 4.0, 4.0, 1.0)
    assert story.names == {BEST: 4, best_tag(METRIC, 1): 1}
    story.play(2.0, 2.0, 2.0, 0.5)
    assert story.names == {BEST: 8, best_tag(METRIC, 1): 1, best_tag(METRIC, 2): 4}
    assert story.callback.tolerances_is_exceeded == {1: True, 2: True}


@pytest.mark.parametrize("resume_after", range(8))
def test_tolerances_survive_a_resume_anywhere(resume_after: int, tmp_path: Path) -> None:
    values = [3.0, 4.0, 4.0, 1.0, 2.0, 2.0, 2.0, 0.5]
    story = Story(tmp_path, tolerances=[1, 2, 9]).play(*values[:resume_after])
    story.resume()
    story.callback.before_training(update_counter=make_counter(update=story.update))
    logged = story.play(*values[resume_after:]).end()
    assert story.names == {BEST: 8} | {best_tag(METRIC, n): at for n, at in ((1, 1), (2, 4), (9, 8))}
    assert [logged[best_key(METRIC, n)] for n in (None, 1, 2, 9)] == [0.5, 3.0, 1.0, 0.5]


def test_the_end_of_training_names_the_best_for_tolerances_that_held(tmp_path: Path) -> None:
    story = Story(tmp_path, tolerances=[5])
    assert story.play(3.0, 2.0, 4.0).end() == {f"{METRIC}/best": 2.0, f"{METRIC}/best/tolerance=5": 2.0}
    assert story.names == {BEST: 2, best_tag(METRIC, 5): 2}


def test_a_best_of_the_last_update_is_named_before_it_is_on_the_disk(tmp_path: Path) -> None:
    story = Story(tmp_path, tolerances=[5]).play(3.0)
    story.update += 1
    story.fire(2.0)
    story.end()
    assert story.names == {BEST: 2, best_tag(METRIC, 5): 2}


def test_a_run_that_is_made_longer_goes_on_with_its_tolerances(tmp_path: Path) -> None:
    story = Story(tmp_path, tolerances=[1]).play(3.0)
    story.end()
    story.resume()
    story.play(2.0, 2.0, 2.0, 1.0)
    assert story.names == {BEST: 5, best_tag(METRIC, 1): 2}


def test_where_nothing_was_finite_nothing_is_named_or_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    story = Story(tmp_path, tolerances=[0]).play(math.nan)
    assert (story.end(), story.names, list(story.writer.checkpoints)) == ({}, {}, [])
    assert f"{METRIC} was never finite" in caplog.text


# Children


def test_children_are_called_on_a_new_best_only_and_with_the_prefix_of_the_metric(tmp_path: Path) -> None:
    story = Story(tmp_path, eval_callbacks=[ON_TEST])
    prefix = "best=loss.test.total/loss/test/"
    for value, is_called in ((2.0, True), (3.0, False), (1.0, True)):
        story.fire(value)
        assert (f"{prefix}total" in story.keys) is is_called
        story.trainer.log_writer.discard()


def test_an_evaluation_calls_children_and_does_nothing_else(tmp_path: Path) -> None:
    story = Story(tmp_path, eval_callbacks=[ON_TEST], tolerances=[0])
    before = story.callback.state_dict()
    story.fire(None, interval_type="eval")
    assert "best=loss.test.total/loss/test/total" in story.keys
    assert (story.writer.pending, story.callback.state_dict()) == (None, before)


def family_ids(story: Story) -> Iterator[str]:
    return (participant.id for participant in participants_of(story.trainer.callbacks))


def test_children_have_ids_below_that_of_their_parent(tmp_path: Path) -> None:
    story = Story(tmp_path, id="keeper", eval_callbacks=[ON_TEST, AT_BEST, {**ON_TEST, "id": None}])
    assert list(family_ids(story)) == ["keeper", "keeper/again", "keeper/best-metric", "keeper/offline-loss"]


def test_the_run_s_stream_does_not_deliver_what_only_a_new_best_asks_for(tmp_path: Path) -> None:
    story = Story(tmp_path, eval_callbacks=[ON_TEST, AT_BEST, EMA])
    assert [type(child).__name__ for child in story.callback.get_children()] == ["BestMetricCallback"]
    assert iterator_callbacks(story.trainer.callbacks) == []


def test_children_of_children_go_through_their_data_too(tmp_path: Path) -> None:
    story = Story(tmp_path, eval_callbacks=[ON_TEST, EMA, {**ON_TEST, "id": "last", "dataset_key": "train"}])
    story.callback.before_training(update_counter=make_counter())
    story.fire(1.0)
    keys = [key for key in story.keys if key.startswith("best=") and key.endswith("total")]
    below = "best=loss.test.total"
    assert keys == [
        f"{below}/loss/test/total",
        f"{below}/ema=0.5/loss/test/total",
        f"{below}/ema=0.9/loss/test/total",
        f"{below}/loss/train/total",
    ]


@pytest.mark.parametrize(("higher_is_better", "compared"), [(None, (METRIC,)), (False, ())])
def test_it_declares_what_it_reads_compares_and_logs(higher_is_better: bool | None, compared: tuple[str, ...]) -> None:
    config = BestCheckpointCallbackConfig(metric_key=METRIC, tolerances=[5], higher_is_better=higher_is_better)
    keys = (f"{METRIC}/best", f"{METRIC}/best/tolerance=5")
    assert BestCheckpointCallback.produced_metrics(config, MetricFacts(None, ())) == keys
    assert BestCheckpointCallback.consumed_metrics(config) == (METRIC,)
    assert BestCheckpointCallback.compared_metrics(config) == compared
    assert BestCheckpointCallback.child_metric_prefixes(config) == ("best=loss.test.total/",)
    assert not BestCheckpointCallback.acts_at_the_end()
