"""The report of runs, as a person uses it."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from noether.checkpoint.paths import PathProvider
from noether.runs.results.report.page import MOST_BYTES, write_report
from noether.runs.results.report.sweep import write_sweep_report
from noether.runs.sweep.journal import FINISHED, Journal, Record
from noether.spec.sweep import Objective

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"


@pytest.fixture(scope="module")
def report(four_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of one run."""
    out = tmp_path_factory.mktemp("report") / "one.html"
    write_report([PathProvider(four_runs, "lr0.01-seed0")], out)
    return out


@pytest.fixture(scope="module")
def compared(four_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of two runs."""
    out = tmp_path_factory.mktemp("report") / "two.html"
    write_report([PathProvider(four_runs, name) for name in ("lr0.01-seed0", "lr0.001-seed0")], out)
    return out


def made_up(folder: Path, lines: int, keys: int = 1) -> PathProvider:
    """Return a run with one value of each of some keys a line."""
    paths = PathProvider(folder, "long")
    paths.run_path.mkdir()
    (paths.run_path / "run.json").write_text('{"format": 1, "created": 1e9}')
    with paths.metrics_path.open("w") as file:
        for n in range(lines):
            value = math.exp(-3 * n / lines) + 0.1 * math.sin(n)
            metrics = {f"loss/online/{key}": value for key in range(keys)}
            if n == lines // 3:
                metrics["loss/online/0"] = 40.0
            fields = {"update": n, "epoch": n // 1000, "sample": 8 * n, "time": 1e9 + n / 10, "metrics": metrics}
            file.write(json.dumps(fields) + "\n")
    return paths


def chart(page: Page, title: str) -> Locator:
    return page.locator(f'.chart[aria-label="Chart {title}"]')


def lines(one: Locator) -> int:
    return one.locator("path.line").count()


def colours(one: Locator) -> set[tuple[int, ...]]:
    image = Image.open(io.BytesIO(one.locator(".plot").screenshot())).convert("RGB")
    return {colour for count, colour in image.getcolors(1 << 20) or [] if count > 20}


def drag(page: Page, one: Locator, start: float, end: float) -> None:
    box = one.locator("svg").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + start * box["width"], box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + end * box["width"], box["y"] + 70, steps=3)
    page.mouse.up()


def test_curves_of_training_and_evaluation_are_drawn_and_nothing_leaves_the_page(watch: Any, report: Path) -> None:
    watched = watch()
    page = watched.show(report)
    loss = chart(page, "loss/total")
    assert lines(loss) == 2 and loss.locator(".legend button").all_inner_texts() == ["training", "test"]
    drawn = colours(loss)
    assert {(31, 111, 235), (232, 89, 12)} <= drawn
    for button in loss.locator(".legend button").all():
        button.click()
    assert lines(loss) == 0 and "every series is hidden" in loss.inner_text()
    assert not {(31, 111, 235), (232, 89, 12)} & colours(loss)
    assert watched.requests == [report.absolute().as_uri()]


def test_the_pointer_shows_the_values_of_its_update(watch: Any, report: Path) -> None:
    page = watch().show(report)
    loss = chart(page, "loss/total")
    loss.locator("svg").hover(position={"x": 1100, "y": 100})
    tip = loss.locator(".tip").inner_text()
    assert "update 12 · epoch 2" in tip and len(re.findall(r"0\.\d{3,}", tip)) == 2
    page.mouse.move(5, 5)
    assert loss.locator(".tip").is_hidden()


def test_a_name_in_the_legend_hides_its_curve_and_shift_leaves_it_alone(watch: Any, report: Path) -> None:
    page = watch().show(report)
    loss = chart(page, "loss/total")
    training, test = loss.locator(".legend button").all()
    test.click()
    assert lines(loss) == 1 and test.get_attribute("aria-pressed") == "false"
    test.click(modifiers=["Shift"])
    assert loss.locator("path.line").get_attribute("data-key") == "loss/test/total"
    assert training.get_attribute("aria-pressed") == "false"


def test_the_log_scale_is_switched_for_one_chart_and_for_all(watch: Any, report: Path) -> None:
    page = watch().show(report)
    loss, lr = chart(page, "loss/total"), chart(page, "Learning rate")
    before = loss.locator("path.line").first.get_attribute("d")
    loss.locator("button.log").click()
    assert loss.locator("path.line").first.get_attribute("d") != before
    assert lr.locator("button.log").get_attribute("aria-pressed") == "false"
    page.locator("#log").click()
    pressed = [button.get_attribute("aria-pressed") for button in page.locator("button.log").all()]
    assert {*pressed} == {"true"}


def test_the_axis_can_be_epochs_samples_or_time(watch: Any, report: Path) -> None:
    page = watch().show(report)
    for axis, title in (("epoch", "epoch"), ("sample", "sample"), ("time", "time since the start in s")):
        page.get_by_text(axis, exact=True).first.click()
        texts = chart(page, "loss/total").locator("svg text").all_text_contents()
        assert texts[-1] == title
        assert axis != "sample" or "80" in texts


def test_dragging_zooms_all_charts_and_two_clicks_show_everything_again(watch: Any, report: Path) -> None:
    page = watch().show(report)
    loss, rate = chart(page, "loss/total"), chart(page, "Learning rate")
    ticks = [one.locator("svg text").all_text_contents() for one in (loss, rate)]
    assert page.locator("#reset").is_disabled()
    drag(page, loss, 0.5, 0.8)
    assert loss.locator("svg text").all_text_contents() != ticks[0]
    page.wait_for_function(
        "before => document.querySelectorAll('.chart')[3].querySelector('svg').textContent !== before",
        arg="".join(ticks[1]),
    )
    loss.locator("svg").dblclick()
    assert loss.locator("svg text").all_text_contents() == ticks[0]


def test_the_keyboard_moves_through_values_zooms_and_switches(watch: Any, report: Path) -> None:
    page = watch().show(report)
    loss = chart(page, "loss/total")
    loss.focus()
    page.keyboard.press("ArrowRight")
    assert "update 1" in loss.locator(".tip b").inner_text()
    page.keyboard.press("End")
    assert "update 12" in loss.locator(".tip b").inner_text()
    assert "update 12" in loss.locator(".spoken").inner_text()
    was = loss.locator("button.log").get_attribute("aria-pressed")
    page.keyboard.press("l")
    assert loss.locator("button.log").get_attribute("aria-pressed") != was
    page.keyboard.press("+")
    assert page.locator("#reset").is_enabled()
    page.keyboard.press("Escape")
    assert page.locator("#reset").is_disabled()


def test_a_run_can_be_hidden_in_all_charts(watch: Any, compared: Path) -> None:
    page = watch().show(compared)
    loss = chart(page, "loss/total")
    assert lines(loss) == 4
    page.locator(".chips button").first.click()
    assert lines(loss) == 2
    assert "model.optimizer.lr" in page.locator("#spec").inner_text()


def test_smoothing_draws_a_second_line_and_a_peak_among_many_values_stays(watch: Any, tmp_path: Path) -> None:
    write_report([made_up(tmp_path, 100_000)], tmp_path / "long.html")
    assert (tmp_path / "long.html").stat().st_size <= MOST_BYTES
    page = watch().show(tmp_path / "long.html")
    loss = chart(page, "loss/0")
    assert "40" in loss.locator("svg text").all_text_contents()  # the peak is one of 100,000 values
    assert lines(loss) == 1
    page.locator("#smoothing").fill("0.9")
    assert lines(loss) == 2 and page.locator("output").first.inner_text() == "0.90"
    assert "are thinned" in page.inner_text("#curves")


@pytest.mark.long
@pytest.mark.parametrize(("written", "keys"), [(1_000_000, 1), (100_000, 10)])
def test_a_million_points_take_five_seconds_and_five_megabytes(
    watch: Any, tmp_path: Path, written: int, keys: int
) -> None:
    paths = made_up(tmp_path, written, keys)
    began = time.process_time()
    size = write_report([paths], tmp_path / "long.html")
    assert time.process_time() - began <= 5.0 and size <= MOST_BYTES
    page = watch().show(tmp_path / "long.html")
    assert lines(chart(page, "loss/0")) == 1


def test_names_that_hold_scripts_run_nothing(watch: Any, four_runs: Path, tmp_path: Path) -> None:
    shutil.copytree(four_runs / "lr0.01-seed0", tmp_path / "runs" / "mine")
    paths = PathProvider(tmp_path / "runs", "mine")
    with paths.metrics_path.open("a") as file:
        for n in (13, 14):
            metrics = {HOSTILE: n, f"rmse/{HOSTILE}/ünï": n}
            fields = {"update": n, "epoch": 2, "sample": n, "time": 1.9e9, "metrics": metrics}
            file.write(json.dumps(fields) + "\n")
    spec = paths.resolved_spec_path.read_text()
    paths.resolved_spec_path.write_text(spec.replace('name = "tiny"', f'name = "{HOSTILE}"'))
    write_report([paths], tmp_path / "hostile.html")
    watched = watch()
    page = watched.show(tmp_path / "hostile.html")
    assert page.evaluate("window.hacked") is None and len(watched.requests) == 1
    assert page.locator("h1").inner_text() == HOSTILE
    titles = [button.get_attribute("title") or "" for button in page.locator(".chart .legend button").all()]
    assert sum(HOSTILE in title for title in titles) == 2


def test_the_policy_of_the_page_stops_other_scripts_and_the_network(watch: Any, report: Path) -> None:
    watched = watch()
    page = watched.show(report)
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'window.hacked = 1'}))")
    fetched = page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')")
    assert page.evaluate("window.hacked") is None and fetched == "refused"
    assert any("Content Security Policy" in problem for problem in watched.problems)
    watched.problems.clear()


def test_the_page_is_dark_where_the_system_is_and_fits_a_phone_and_paper(watch: Any, compared: Path) -> None:
    light, dark = ("getComputedStyle(document.body).backgroundColor",) * 2
    page = watch(viewport={"width": 360, "height": 740}).show(compared)
    assert page.evaluate(light) == "rgb(255, 255, 255)"
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.emulate_media(media="print")
    assert page.locator(".toolbar").is_hidden()
    assert len(page.pdf()) > 10_000
    assert watch(color_scheme="dark").show(compared).evaluate(dark) == "rgb(13, 17, 23)"


def test_a_figure_is_shown_and_its_updates_are_on_a_slider(watch: Any, four_runs: Path, tmp_path: Path) -> None:
    from noether.metrics.metrics_file import MetricRecord
    from noether.metrics.results import Content, ResultsFile

    shutil.copytree(four_runs / "lr0.01-seed0", tmp_path / "runs" / "mine")
    paths = PathProvider(tmp_path / "runs", "mine")
    file = ResultsFile(paths.run_path)
    for n, colour in ((4, "red"), (8, "blue")):
        buffer = io.BytesIO()
        Image.new("RGB", (40, 30), colour).save(buffer, "PNG")
        body = json.dumps({"edges": [0, 1, 2, 3], "counts": [n, 2 * n, n], "left_out": 0}).encode()
        results = {"view": Content("figure", "png", buffer.getvalue()), "weights": Content("histogram", "json", body)}
        file.keep(MetricRecord(n, 0, 8 * n, 1e9), results)
    file.close()
    write_report([paths], tmp_path / "figures.html")
    page = watch().show(tmp_path / "figures.html")
    card = page.locator("#figures figure")
    assert card.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 40
    assert card.locator("output").inner_text() == "update 8"
    card.locator("input").fill("0")
    assert card.locator("output").inner_text() == "update 4"
    assert page.locator("#histograms rect.bar").count() == 3


def test_the_page_of_a_sweep_shows_the_plots_and_hides_the_curves_of_a_trial(
    watch: Any, four_runs: Path, tmp_path: Path
) -> None:
    journal = Journal(tmp_path, "lr")
    record = Record("lr", "tiny.toml", "optuna", Objective("rmse/test/y", "lower", "final"), {})
    for number, name in enumerate(("lr0.001-seed0", "lr0.01-seed0"), start=1):
        trial = record.add({"model.optimizer.lr": 0.1**number})
        trial.state, trial.final, trial.best = FINISHED, 1.0 / number, 1.0 / number
        shutil.copytree(four_runs / name, journal.paths(trial).run_path)
    with journal.locked():
        journal.write(record)
    (journal.folder / "plots").mkdir()
    Image.new("RGB", (60, 40), (200, 30, 30)).save(journal.folder / "plots" / "history.png")
    write_sweep_report(journal, tmp_path / "sweep.html")
    watched = watch()
    page = watched.show(tmp_path / "sweep.html")
    assert page.locator("tr.winner").inner_text().startswith("lr-002best")
    plot = page.get_by_alt_text("Optimization history: ")
    assert plot.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [60, 40]
    first = page.locator(".chart").first
    assert first.get_attribute("aria-label") == "Chart rmse/y" and lines(first) == 2
    page.locator(".chips button", has_text="lr-002").click()
    assert lines(first) == 1
    assert [address for address in watched.requests if not address.startswith(("file:", "data:"))] == []
