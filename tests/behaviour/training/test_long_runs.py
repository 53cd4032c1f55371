"""A long run: neither the work of an update nor memory grows with the updates and metrics that are behind it."""

import cProfile
import gc
import tracemalloc
from pathlib import Path
from typing import Any

import psutil
import pytest

from noether.metrics.log import LogWriter
from noether.metrics.metrics_file import MetricsFile
from noether.testing.builders import make_counter, make_model, make_trainer

WINDOW = 600  # updates whose calls are counted: a hundred epochs of the builders' data
MEGABYTE = 1 << 20


def rss() -> int:
    found: int = psutil.Process().memory_info().rss
    return found


def calls_of(profile: cProfile.Profile) -> int:
    """Return the calls that do not depend on the clock, which asks for the peak of the memory now and then."""
    return sum(entry.callcount for entry in profile.getstats() if "getrusage" not in str(entry.code))


class Watch:
    """Counts Python calls in two stretches of updates, and takes the memory at their starts.

    The garbage collector is off in them: it would call what earlier tests in this process have left.
    """

    def __init__(self, early: int, late: int) -> None:
        self.update = 0
        self.starts = (early, late)
        self.profile = cProfile.Profile()
        self.calls: list[int] = []
        self.memory: list[int] = []

    def __call__(self, *_: Any) -> None:
        """Take note of one more update; a forward hook of the model."""
        self.update += 1
        if self.update in self.starts:
            self.memory.append(rss())
            self.profile = cProfile.Profile()
            gc.disable()
            self.profile.enable()
        elif self.update - WINDOW in self.starts:
            self.profile.disable()
            gc.enable()
            self.calls.append(calls_of(self.profile))


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("updates", [100_000, 1_000_000])
def test_the_last_updates_of_a_long_run_cost_what_the_first_ones_do(tmp_path: Path, updates: int) -> None:
    model = make_model()
    watch = Watch(early=updates // 10, late=9 * updates // 10)
    model.register_forward_hook(watch)
    logging = [{"kind": "online-loss", "every_n_updates": 10}, {"kind": "lr", "every_n_updates": 10}]
    trainer = make_trainer(tmp_path, max_updates=updates, add_default_callbacks=True, callbacks=logging)
    trainer.train(model)
    trainer.log_writer.close()
    early, late = watch.calls
    assert late <= early + 2
    assert watch.memory[1] - watch.memory[0] < 8 * MEGABYTE


@pytest.mark.long  # counts calls, to which other tests in its process may add some
def test_an_update_before_the_millionth_costs_what_one_before_the_thousandth_does(tmp_path: Path) -> None:
    """The short form of the test above: the run begins near its end."""

    def costs(start: int) -> tuple[int, int, int]:
        """Return the calls of a window of updates, and the objects and bytes of Python that the next one leaves."""
        model, watch, held = make_model(), Watch(early=60, late=10 * MEGABYTE), []

        def look(*_: Any) -> None:
            watch()
            if watch.update in (WINDOW + 70, 2 * WINDOW + 70):
                gc.collect()
                held.append((len(gc.get_objects()), tracemalloc.get_traced_memory()[0]))

        model.register_forward_hook(look)
        often = {"log_every_n_updates": 50, "track_every_n_updates": 50}  # it depends on the length of the run else
        end = start + 2 * WINDOW + 90
        trainer = make_trainer(tmp_path / str(start), max_updates=end, add_default_callbacks=True, **often)
        epochs = start // trainer.updates_per_epoch
        trainer.stand_at(epochs, start, start * trainer.config.effective_batch_size)
        tracemalloc.start()
        trainer.train(model)
        tracemalloc.stop()
        trainer.log_writer.close()
        assert trainer.update_counter.update == end
        (objects, size), (later_objects, later_size) = held
        return watch.calls[0], later_objects - objects, later_size - size

    costs(0)  # imports
    near_the_start, near_the_end = costs(0), costs(999_000)
    assert near_the_end[0] <= near_the_start[0] + 2
    assert max(near_the_start[1], near_the_end[1]) < WINDOW / 10  # an object for each update would be 20 times as many
    assert max(near_the_start[2], near_the_end[2]) < 16 * WINDOW


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_thousand_metrics_cost_the_same_at_every_boundary(tmp_path: Path) -> None:
    writer = LogWriter(MetricsFile(tmp_path / "metrics.jsonl", tmp_path))
    keys = [f"loss/train/field{index}" for index in range(1000)]
    calls, memory = [], []
    for update in range(1, 2001):
        profile = cProfile.Profile() if update in (200, 2000) else None
        if profile:
            memory.append(rss())
            profile.enable()
        for index, key in enumerate(keys):
            writer.add_scalar(key, float(index + update))
        writer.flush(make_counter(update=update, end_update=10_000))
        if profile:
            profile.disable()
            calls.append(sum(entry.callcount for entry in profile.getstats()))
    writer.close()
    assert calls[1] <= calls[0] + 20
    assert memory[1] - memory[0] < 4 * MEGABYTE


def test_a_boundary_costs_calls_in_proportion_to_its_metrics(tmp_path: Path) -> None:
    def calls(count: int) -> int:
        writer = LogWriter(MetricsFile(tmp_path / f"{count}.jsonl", tmp_path))
        profile = cProfile.Profile()
        for update in (1, 2):
            if update == 2:
                profile.enable()
            for index in range(count):
                writer.add_scalar(f"loss/{index}", 1.0)
            writer.flush(make_counter(update=update))
        profile.disable()
        writer.close()
        return sum(entry.callcount for entry in profile.getstats())

    calls(1)  # imports
    ten, hundred, thousand = calls(10), calls(100), calls(1000)
    assert thousand - hundred <= 10.5 * (hundred - ten)


def test_the_thousandth_epoch_starts_with_the_calls_of_the_first(tmp_path: Path) -> None:
    """The short form of the first test, for every run of the tests."""
    model = make_model()
    watch = Watch(early=WINDOW, late=4 * WINDOW)
    model.register_forward_hook(watch)
    trainer = make_trainer(tmp_path, max_updates=5 * WINDOW + 6, add_default_callbacks=True)
    trainer.train(model)
    trainer.log_writer.close()
    early, late = watch.calls
    assert late <= early + 2
