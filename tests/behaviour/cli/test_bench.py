"""`noether bench`: an update beside the bare loop, the costs of callbacks, and its exit codes."""

import json
from pathlib import Path

import pytest

BUSY, READS, MEDDLES = ({"kind": f"lab.dear.{name}", "id": name.lower()} for name in ("Busy", "Reads", "Meddles"))
UPDATES = 40


@pytest.fixture
def bench(noether_command, spec_file, tiny_spec, lab):
    """Measures the tiny spec with the given callbacks and changes; returns how the command ended."""

    def call(*options, callbacks=(), trainer=(), **tables):
        limits = {"max_epochs": 20, "callbacks": list(callbacks)}
        spec = spec_file(trainer=tiny_spec["trainer"] | limits | dict(trainer), **tables)
        return noether_command("bench", spec, "--updates", str(UPDATES), *options)

    return call


@pytest.fixture
def measured(bench):
    """As `bench`, and returns the JSON that it has printed."""

    def call(*options, **changes):
        ended = bench("--json", *options, **changes)
        assert (ended.code, ended.err) == (0, "")
        return json.loads(ended.out)

    return call


def costs_of(found, name):
    return {one["hook"]: one for one in found["callbacks"] if one["name"] == name}


def test_the_table_says_what_an_update_costs_and_names_the_dearest_callback_first(bench):
    ended = bench(callbacks=[READS, BUSY])
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[0].startswith("tiny: an update takes ")
    assert " the bare loop " in lines[0]
    facts = dict(line.strip().split("  ", 1) for line in lines[1:6])
    assert facts["dearest callbacks"].split(" ")[0] == "busy"
    assert facts["dearest callbacks"].count(" µs") == 3
    assert facts["weights"].strip() == "equal to those of the bare loop, bit by bit"
    table = lines[lines.index("") + 2 :]
    assert table[0].split() == ["CALLBACK", "HOOK", "US", "SHARE", "CALLS", "ALLOCATIONS", "WAITS"]
    assert table[1].split()[:2] == ["busy", "track_after_update_step"]


def test_json_has_the_ratio_both_times_and_each_hook_with_its_share(measured):
    found = measured(callbacks=[BUSY, {"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test"}])
    assert found["ratio"] == pytest.approx(found["update_us"] / found["bare_us"])
    assert found["ratio"] > 1
    busy = costs_of(found, "busy")["track_after_update_step"]
    assert busy["calls"] == 1
    assert busy["us"] / found["mean_us"] == pytest.approx(busy["share"])
    assert busy["share"] > 0.2
    assert costs_of(found, "offline-loss")["periodic_callback"]["calls"] == pytest.approx(1 / 6)
    assert found["python_calls"]["update"] > found["python_calls"]["bare"] > 10
    assert {"cores", "threads", "python", "torch", "device"} <= found["machine"].keys()
    assert "noether-bench" not in {one["name"] for one in found["callbacks"]}
    assert found["callbacks"][0]["name"] == "busy"


@pytest.mark.parametrize("update", ["eager", "auto", "graph"])
def test_values_that_a_callback_reads_are_waits_and_tensors_that_it_makes_allocations(measured, update):
    """On a CPU `auto` and `graph` are eager updates."""
    found = costs_of(measured(callbacks=[READS, BUSY], trainer={"update": update}), "reads")[
        "track_after_accumulation_step"
    ]
    assert (found["waits"], found["allocations"]) == (3, 1)


def test_nothing_is_left_behind(bench, workplace):
    before = sorted(path.name for path in workplace.iterdir())
    bench()
    assert sorted(path.name for path in workplace.iterdir()) == sorted([*before, "tiny.toml"])


SCHEDULED = {"kind": "AdamW", "lr": 0.01, "schedule": {"kind": "linear", "start": 1.0, "end": 0.5}}


@pytest.mark.parametrize(
    ("model", "trainer"),
    [
        ({"optimizer": SCHEDULED | {"clip_grad_norm": 0.5}}, {}),
        ({"dropout": 0.2}, {}),
        ({}, {"max_batch_size": 4}),
        ({}, {"precision": "bf16"}),
        ({}, {"field_weights": {"y": 0.5}, "loss_fn": "l1"}),
        ({"optimizer": {"kind": "LBFGS", "max_iter": 3}}, {}),
    ],
    ids=["clipped under a schedule", "dropout", "accumulation", "bf16", "weighted l1", "a closure"],
)
def test_the_bare_loop_ends_with_the_weights_of_the_run(measured, tiny_spec, model, trainer):
    found = measured(model=tiny_spec["model"] | model, trainer=trainer)
    assert found["weights_differ"] is None


def test_a_callback_that_changes_training_is_seen_in_the_weights(measured):
    assert "tensors differ" in measured(callbacks=[MEDDLES])["weights_differ"]


def test_an_interval_that_does_not_fire_is_named(bench):
    ended = bench(callbacks=[{"kind": "checkpoint", "every_n_epochs": 15}])
    assert "not measured: checkpoint acts first after update 90\n" in ended.out


STOPS = {"kind": "fixed-early-stopper", "stop_at_update": 30}


def test_a_run_that_stops_by_itself_is_measured_up_to_there(measured):
    found = measured(callbacks=[STOPS, BUSY])
    assert found["updates"] <= 30
    assert found["weights_differ"].startswith("not compared: ")
    assert found["callbacks"][0]["name"] == "busy"


def test_a_run_that_stops_before_anything_was_measured_is_refused(bench):
    ended = bench(callbacks=[STOPS | {"stop_at_update": 3}])
    assert ended.code == 2
    assert ended.err.startswith("error: nothing was measured: training ended by itself at update 3\n")


def test_a_ratio_over_the_limit_fails_with_one_line(bench):
    ended = bench("--fail-over", "0.01", callbacks=[BUSY])
    assert ended.code == 1
    assert len(ended.err.splitlines()) == 1
    assert "allowed up to 0.01; dearest: busy " in ended.err


def test_a_ratio_below_the_limit_passes(bench):
    ended = bench("--fail-over", "1000")
    assert (ended.code, ended.err) == (0, "")


def former(found, **changes):
    Path("former.json").write_text(json.dumps(found | changes))
    return "--compare", "former.json"


def test_what_grew_since_an_earlier_measurement_is_named(bench, measured):
    found = measured()
    slower = bench(*former(found, ratio=found["ratio"] / 100, noise=0.0), callbacks=[BUSY])
    assert slower.code == 1
    line, *others = slower.err.splitlines()
    assert line.startswith("error: the ratio grew from ")
    assert "most of all busy track_after_update_step +" in line
    (calls,) = others
    assert "Python calls of an update, less those of the bare loop, grew from " in calls
    assert "new or called more often: busy track_after_update_step" in calls


def test_a_ratio_whose_noise_is_unknown_is_not_compared_and_a_note_says_so(bench, measured):
    found = measured()
    ended = bench(*former(found, ratio=found["ratio"] / 100, noise=None))
    assert ended.code == 0
    assert ended.err.startswith("note: the ratio is not compared, since too few slices were timed")


def test_a_short_measurement_has_enough_slices_to_tell_its_noise(measured):
    found = measured()
    assert found["slices"] >= 10
    assert found["noise"] is not None


def test_a_ratio_that_no_hook_explains_names_none(bench, measured):
    found = measured(callbacks=[BUSY])
    ended = bench(*former(found, ratio=found["ratio"] / 100, noise=0.0), callbacks=[BUSY])
    assert ended.code == 1
    assert "; not in a hook: look at the model, the loss and the data" in ended.err


def test_an_update_that_is_as_quick_as_before_passes(bench, measured):
    found = measured()
    ended = bench(*former(found, ratio=found["ratio"] * 100))
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[-1].startswith("nothing grew since former.json")


def test_a_measurement_of_another_spec_is_not_compared(bench, measured):
    ended = bench(*former(measured(), name="other"))
    assert ended.code == 2
    assert "found 'other', expected 'tiny'" in ended.err


@pytest.mark.parametrize(("wanted", "way_out"), [(20, "add --updates 20"), (None, "leave out --updates")])
def test_a_measurement_of_other_updates_is_not_compared(bench, measured, wanted, way_out):
    ended = bench(*former(measured(), wanted=wanted))
    assert ended.code == 2
    assert way_out in ended.err


def test_a_measurement_of_another_machine_is_compared_with_a_note(bench, measured):
    found = measured()
    machine = found["machine"] | {"cores": 96, "torch": "2.99"}
    ended = bench(*former(found, ratio=1000.0, machine=machine))
    assert ended.code == 0
    assert ended.err.startswith("note: former.json is of another machine or other versions (cores 96, here ")


def test_a_callback_that_begins_to_wait_is_named(bench, measured):
    found = measured(callbacks=[{**READS, "id": "losses"}])
    reading = costs_of(found, "losses")["track_after_accumulation_step"]
    reading["waits"] = 0
    ended = bench(*former(found, ratio=1000.0), callbacks=[{**READS, "id": "losses"}])
    assert ended.code == 1
    assert "losses reads values in track_after_accumulation_step: 3 an update, 0 before" in ended.err


def test_a_wrong_spec_is_one_clear_error(refusal):
    assert "nothing.toml" in refusal("bench", "nothing.toml")


def test_too_few_updates_are_refused(refusal, spec_file, tiny_spec):
    spec = spec_file(trainer=tiny_spec["trainer"] | {"max_epochs": 1})
    assert "found 6, expected at least 10" in refusal("bench", spec)


def test_code_that_a_spec_may_not_import_is_refused(refusal, spec_file, tiny_spec):
    spec = spec_file(trainer=tiny_spec["trainer"] | {"callbacks": [{"kind": "os.system"}]})
    assert "os" in refusal("bench", spec)


HALF = '{"ratio": 1.5, "callbacks": [], "noise": 0.1, "name": "tiny", "machine": {"python": "3", "device": "cpu"}, ' + (
    '"python_calls": {"update": 3.0}}'
)


@pytest.mark.parametrize("text", ["", "[]", '{"ratio": 1.5}', '{"ratio": "1", "callbacks": []}', HALF, None])
def test_a_file_that_is_no_measurement_is_refused(refusal, spec_file, text):
    if text is not None:
        Path("former.json").write_text(text)
    assert "former.json" in refusal("bench", spec_file(), "--compare", "former.json")


def test_an_error_of_a_callback_is_one_error(bench):
    fails = {"kind": "lab.callbacks.Fails", "every_n_updates": 3}
    ended = bench(callbacks=[fails])
    assert ended.code == 1
    assert "Traceback" not in ended.err
    assert ended.err.startswith("error: training failed: ")
