"""The model of many ranks: limits of its formulas, and the page that shows it."""

import importlib
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

SCALING = Path(__file__).parents[2] / "benchmarks" / "scaling"
with pytest.MonkeyPatch.context() as patch:  # `model` alone would be a name that projects of other tests use
    patch.syspath_prepend(SCALING)
    model, costs, loopback = map(importlib.import_module, ("benchmarks.scaling.model", "costs", "loopback"))

JOBS, Job, estimate = costs.JOBS, costs.Job, costs.estimate
TIMINGS = json.loads(model.MEASURED.read_text("utf-8"))
LINKS = costs.links(TIMINGS)
FREE = costs.Link(0.0, 1e9, "")
HOUR, MINUTE = 3600.0, 60.0
FEW = settings(deadline=None, max_examples=40)

ranks = st.integers(1, 8192)
sizes = st.floats(1.0, 1e12)
jobs = st.builds(
    Job,
    parameters=st.floats(1e3, 1e12),
    update_s=st.floats(1e-3, 100.0),
    parallel=st.sampled_from(["exact", "ddp", "fsdp2"]),
    library=st.sampled_from(["nccl", "gloo"]),
    inside=st.sampled_from(sorted(LINKS)),
    between=st.sampled_from(sorted(LINKS)),
    store=st.sampled_from(sorted(costs.stores(TIMINGS))),
    ranks_per_node=st.integers(1, 16),
    links_per_node=st.integers(1, 8),
    groups=st.integers(1, 100),
)


def flat(count: int, link: costs.Link) -> costs.Way:
    return costs.Way(count, 1, count, link, link, link.rate)


@FEW
@given(jobs)
def test_one_rank_has_nothing_to_say(job):
    alone = estimate(job, 1, TIMINGS)
    assert (alone.communication_s, alone.control_s) == (0.0, 0.0)


@FEW
@given(jobs, ranks)
def test_one_more_rank_never_makes_communication_control_or_failures_less(job, count):
    few, many = (estimate(job, each, TIMINGS) for each in (count, count + 1))
    assert many.communication_s >= few.communication_s * (1 - 1e-12)
    assert many.control_s > few.control_s
    assert many.mtbf_s <= few.mtbf_s


@FEW
@given(jobs, ranks)
def test_shares_are_shares(job, count):
    one = estimate(job, count, TIMINGS)
    assert 0.0 <= one.efficiency <= 1.0
    assert 0.0 <= one.loss <= 1.0
    assert one.interval >= 1


@FEW
@given(sizes)
def test_a_ring_of_many_ranks_sends_twice_the_bytes(size):
    assert costs.ring(size, flat(2, FREE)) == pytest.approx(size / FREE.rate)
    assert costs.ring(size, flat(10**6, FREE)) == pytest.approx(2 * size / FREE.rate, rel=1e-5)


@FEW
@given(sizes)
def test_sharded_weights_send_half_as_much_again_as_gradients_alone(size):
    link = {"nvlink": FREE, "ndr": FREE}
    shared = costs.communication(Job(size, 1.0, library="gloo", links_per_node=1), 64, link)
    sharded = costs.communication(Job(size, 1.0, "fsdp2", links_per_node=1, groups=7), 64, link)
    assert sharded == pytest.approx(1.5 * shared)


def test_a_small_message_takes_a_tree_and_a_large_one_on_few_ranks_a_ring():
    link = costs.Link(1e-5, 1e9, "")
    spread = costs.Way(64, 64, 1, link, link, link.rate)
    assert costs.tree(8, spread) == pytest.approx(2 * 6 * 1e-5, rel=0.01)
    assert costs.ring(8, spread) == pytest.approx(2 * 63 * 1e-5, rel=0.01)
    pair = costs.Way(2, 2, 1, link, link, link.rate)
    assert costs.ring(1e9, pair) < costs.tree(1e9, pair)


def test_a_vote_makes_two_hops_for_each_rank_but_one():
    hop = TIMINGS["ranks"]["2"]["vote"]["best"] / 2
    assert estimate(JOBS["large"], 4096, TIMINGS).control_s == pytest.approx(8190 * hop)


@pytest.mark.parametrize(("mtbf", "minutes"), [(24 * HOUR, "117"), (6 * HOUR, "57"), (15 * MINUTE, "9.1")])
def test_the_interval_is_that_of_dalys_figures(mtbf, minutes):
    """His figures 3 to 5: a dump takes 5 minutes, a restart 10."""
    digits = len(minutes.partition(".")[2])
    assert f"{costs.daly(5 * MINUTE, mtbf) / MINUTE:.{digits}f}" == minutes


def time_for_work(interval: float, save: float, mtbf: float) -> float:
    return (interval + save) / interval / costs.kept(interval, save, 0.0, mtbf)


@FEW
@given(st.floats(1e-4, 0.5), st.floats(10.0, 1e6))
def test_the_interval_is_where_time_is_least(share, mtbf):
    save = share * mtbf
    tried = [mtbf * 10 ** (power / 200) for power in range(-800, 200)]
    least = min(time_for_work(interval, save, mtbf) for interval in tried)
    assert time_for_work(costs.daly(save, mtbf), save, mtbf) == pytest.approx(least, rel=2e-3)


@FEW
@given(st.floats(0.1, 10.0), st.floats(1e3, 1e6))
def test_youngs_interval_is_the_limit_for_short_saves(save, factor):
    mtbf = save * factor**2
    assert costs.daly(save, mtbf) == pytest.approx(costs.young(save, mtbf), rel=2 / factor)


def test_failures_cost_nothing_if_there_are_none_and_more_with_long_restarts():
    assert costs.kept(100.0, 1.0, 60.0, 1e12) == pytest.approx(1.0)
    none, short, long = (costs.kept(100.0, 1.0, restart, 1e4) for restart in (0.0, 60.0, 6e3))
    assert none > short > long
    assert costs.kept(1.0, 1e6, 0.0, 1.0) == 0.0  # a save never ends between two failures


def test_a_sharded_checkpoint_is_written_by_all_nodes_up_to_the_limit_of_the_store():
    job = replace(JOBS["large"], parameters=1e12)
    one, two, many = (estimate(job, count, TIMINGS).save_s for count in (8, 16, 4096))
    assert two == pytest.approx(one / 2, rel=0.01)
    assert many == pytest.approx(12e12 / 2e12, rel=0.01)
    whole = replace(job, parallel="exact")
    assert estimate(whole, 4096, TIMINGS).save_s == pytest.approx(one, rel=0.01)


def test_every_figure_of_another_machine_names_its_source_and_year():
    for name, known in {**LINKS, **costs.stores(TIMINGS)}.items():
        measured = "measured here" in known.source
        assert measured or re.search(r"\b(19|20)\d\d\b|Amazon, S3", known.source), name
        assert measured == (name in ("loopback", "disk"))


def test_the_page_and_its_picture_are_those_of_the_recorded_measurements():
    page = model.PAGE.read_text("utf-8")
    for name, text in model.blocks(TIMINGS).items():
        assert f"{model.BEGIN.format(name)}\n\n{text}\n\n{model.END.format(name)}" in page, name
    assert model.PAGE.with_suffix(".svg").read_text("utf-8") == model.picture(TIMINGS)


def test_every_line_of_the_picture_is_inside_of_it_and_has_a_name():
    root = ElementTree.fromstring(model.picture(TIMINGS))
    width, height = (float(root.get(name, "")) for name in ("width", "height"))
    tag = "{http://www.w3.org/2000/svg}"
    for group in root.iter(f"{tag}g"):
        left, top = map(float, re.findall(r"\d+", group.get("transform", "")))
        for line in group.iter(f"{tag}polyline"):
            points = [tuple(map(float, point.split(","))) for point in line.get("points", "").split()]
            assert all(0 <= left + x <= width and 0 <= top + y <= height for x, y in points)
    words = {element.text for element in root.iter(f"{tag}text")}
    assert words >= {"communication", "control", "checkpoint", *JOBS, "4,096"}


def test_a_job_with_other_inputs_is_printed(capsys):
    model.main(["--job", "large", "update_s=100", "between=10gbe"])
    printed = capsys.readouterr().out
    assert "1.7 min of computing" in printed
    assert "`10gbe`" in printed


@pytest.mark.parametrize(
    "job",
    [["huge"], ["large", "updates=5"], ["large", "store=tape"], ["large", "groups=1.5"], ["large", "update_s=-1"]],
)
def test_an_unknown_input_is_refused(job, capsys):
    with pytest.raises(SystemExit):
        model.main(["--job", *job])
    assert "expected" in capsys.readouterr().err


def test_the_command_measures_records_and_writes(monkeypatch, tmp_path):
    page, record = tmp_path / "scaling.md", tmp_path / "measured.json"
    page.write_text(model.PAGE.read_text("utf-8"), "utf-8")
    monkeypatch.setattr(model, "PAGE", page)
    monkeypatch.setattr(model, "MEASURED", record)
    monkeypatch.setattr(model, "measured", lambda folder: {**TIMINGS, "machine": "another one"})
    model.main(["--folder", str(tmp_path)])
    assert "another one" in page.read_text("utf-8")
    assert json.loads(record.read_text("utf-8"))["machine"] == "another one"
    assert page.with_suffix(".svg").exists()


def test_a_write_is_measured_and_leaves_nothing_behind(tmp_path):
    found = loopback.of_writes(tmp_path, 2**16, turns=1)
    assert found["bytes"] == 2**16
    assert 0 < found["commit"]["best"] <= found["commit"]["median"] < math.inf
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_operations_of_two_processes_are_measured(monkeypatch):
    monkeypatch.syspath_prepend(SCALING)  # the processes import the module by its name
    found = loopback.of_ranks(2, (8, 4096), turns=2)
    assert found.keys() == {"8", "4096", "vote", "barrier", "broadcast"}
    assert all(0 < each["best"] <= each["median"] for each in found.values())
