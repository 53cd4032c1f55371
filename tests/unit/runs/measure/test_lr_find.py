"""The suggestion of a range test from its losses, and the curve that shows it."""

import math
from pathlib import Path
from random import Random

import pytest

from noether.cli.find import Curve, lr_curve
from noether.runs.measure.batch_find import BatchTest, Measured, _Bench, _on_accelerator, _on_cpu
from noether.runs.measure.lr_find import FEWEST, LrTest, diverges, noise_of, smooth, suggest

RATES = [10 ** (-6 + 0.05 * place) for place in range(140)]


def falling(middle: float, low: float = 0.2) -> list[float]:
    """A loss that falls around one rate and rises again two decades later."""
    return [low + 1 / (1 + (rate / middle) ** 2) + min(5.0, (rate / (100 * middle)) ** 2) for rate in RATES]


def test_the_loss_falls_fastest_where_it_does() -> None:
    steepest, lowest = suggest(RATES, falling(1e-3))
    assert steepest == pytest.approx(1e-3, rel=0.15)
    assert 3e-3 < (lowest or 0) < 0.1


def test_smoothing_moves_nothing_to_another_rate() -> None:
    steepest, _ = suggest(RATES, smooth(falling(1e-3)))
    assert steepest == pytest.approx(1e-3, rel=0.2)


def test_a_loss_that_does_not_fall_suggests_nothing() -> None:
    assert suggest(RATES, [1.0] * len(RATES)) == (None, None)
    assert suggest(RATES, [1.0 + 0.01 * place for place in range(len(RATES))]) == (None, None)
    assert suggest(RATES, [math.nan] * len(RATES)) == (None, None)


def test_training_diverges_when_the_loss_rises_by_more_than_it_has_fallen() -> None:
    fallen = [1.0] * FEWEST + [0.5, 0.2]
    for rises in ([1.0] * 12, [1.3] * 12):
        assert diverges([*fallen, *rises], [*fallen, *rises]) == (rises[0] > 1.2)
    assert not diverges([-1.0, -1.1, -1.2] * 20, [-1.0, -1.1, -1.2] * 20)


def noisy(losses: list[float], size: float, seed: int = 0) -> list[float]:
    """Losses of batches that differ: a batch in ten has a rare sample, as targets with a long tail have."""
    generator = Random(seed)
    return [loss + size * (generator.random() + 5 * (generator.random() < 0.1)) for loss in losses]


def test_noise_of_batches_alone_is_neither_divergence_nor_a_reason_to_suggest_a_rate() -> None:
    suggested_without = 0
    for seed in range(10):
        losses = noisy([1.0] * len(RATES), 1.0, seed)
        smoothed, noise = smooth(losses), noise_of(losses)
        for count in range(2 * FEWEST + 1, len(losses), 3):
            assert not diverges(smooth(losses[:count]), losses[:count])
        assert suggest(RATES, smoothed, noise) == (None, None)
        suggested_without += suggest(RATES, smoothed) != (None, None)
    assert suggested_without, "this noise would lead to a rate"


def test_a_fall_that_stands_out_of_the_noise_is_found_at_its_rate() -> None:
    losses = noisy(falling(1e-3), 0.05)
    steepest, lowest = suggest(RATES, smooth(losses), noise_of(losses))
    assert steepest == pytest.approx(1e-3, rel=1)
    assert 3e-3 < (lowest or 0) < 0.1


def test_training_that_diverges_is_noticed_in_noise() -> None:
    losses = noisy(falling(1e-3), 0.05)
    assert diverges(smooth(losses), losses)


def test_a_sketch_shows_extremes_and_suggestion_in_lines_of_one_width() -> None:
    curve = Curve(RATES, falling(1e-3), "learning rate", "loss", "a test", marks={"suggested: 0.001": 1e-3})
    for in_ascii in (True, False):
        lines = curve.sketch(in_ascii=in_ascii)
        assert max(map(len, lines)) < 80
        assert lines[0].split()[0] == "5.29" or float(lines[0].split()[0]) > 1
        assert "suggested: 0.001" in lines[-1]
        assert in_ascii == all(line.isascii() for line in lines)


def test_a_sketch_leaves_out_what_is_not_finite() -> None:
    lines = Curve([1.0, 2.0, 4.0, 8.0], [1.0, math.nan, 3.0, math.inf], "x", "y", "t").sketch()
    assert lines[0].split()[0] == "3"


def test_divergence_leaves_the_sketch_instead_of_flattening_what_came_before() -> None:
    losses = [*falling(1e-3)[:-3], 1e6, 1e9, 1e10]
    curve = lr_curve(LrTest(RATES, losses, losses, "diverges", None, None, {}, "a test"))
    *body, _, _ = curve.sketch(in_ascii=True)
    assert sum("*" in line for line in body) > len(body) // 3
    assert "e+" not in body[0]


def test_a_picture_is_written(tmp_path: Path) -> None:
    Curve(RATES, falling(1e-3), "x", "y", "t", faint=falling(1e-3), marks={"a": 1e-3}).save(tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def result_of(rates: dict[int, float | None], own: int = 64) -> BatchTest:
    return BatchTest("name", "cpu", [Measured(size, rate) for size, rate in rates.items()], "its end", own)


def test_on_a_cpu_the_smallest_size_with_nine_tenths_of_the_best_throughput_is_suggested() -> None:
    values, _ = _on_cpu(result_of({8: 50.0, 16: 91.0, 32: 100.0, 64: 80.0}))
    assert values == {"trainer.effective_batch_size": 16}


def test_on_a_cpu_a_size_that_is_quick_enough_stays() -> None:
    values, _ = _on_cpu(result_of({8: 50.0, 16: 91.0, 64: 95.0, 128: 100.0}))
    assert values == {"trainer.effective_batch_size": 64}


def test_on_an_accelerator_the_largest_size_that_fits_is_suggested() -> None:
    values, _ = _on_accelerator(result_of({64: 5.0, 128: 6.0, 256: None}))
    assert values == {"trainer.effective_batch_size": 128}


def test_a_size_that_does_not_fit_is_cut_into_accumulation_steps() -> None:
    values, _ = _on_accelerator(result_of({16: 5.0, 32: 6.0, 64: None}))
    assert values == {"trainer.max_batch_size": 32}


def test_no_batch_is_larger_than_the_training_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def train(bench: _Bench, loaded: int, *_: object) -> float:
        bench._samples = 48
        return 1.0 / loaded**0.5  # larger batches are always faster

    monkeypatch.setattr(_Bench, "_train", train)
    bench = _Bench(lambda limit: limit["trainer.effective_batch_size"], [], 0.1)  # type: ignore[arg-type, return-value]
    assert "48" in bench.grow(8, 1000)
    assert max(bench.measured) == 32


def test_the_largest_size_that_fits_is_found_between_one_that_does_and_one_that_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def train(bench: _Bench, loaded: int, *_: object) -> float:
        if loaded > 41:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return 1.0

    monkeypatch.setattr(_Bench, "_train", train)
    bench = _Bench(lambda limit: limit["trainer.effective_batch_size"], [], 0.1)  # type: ignore[arg-type, return-value]
    bench.has_memory = False
    bench.grow(64, 1024)
    fits = max(size for size, one in bench.measured.items() if one.rate is not None)
    fails = min(size for size, one in bench.measured.items() if one.rate is None)
    assert fits <= 41 < fails
    assert fails - fits <= fits // 8
