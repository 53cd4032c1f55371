"""`noether verify-resume`: state that a resume does not restore is found and named."""

import json
import signal
from pathlib import Path

import pytest

SPECS = Path(__file__).parents[3] / "specs"
OFFLINE_LOSS = {"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test"}


@pytest.fixture
def verify(noether_command, spec_file, lab):
    """Verifies the tiny spec with the given callbacks; returns how the command ended."""

    def call(*callbacks, options=(), **tables):
        spec = spec_file(**tables)
        added = [arguments for callback in callbacks for arguments in ("-s", f"trainer.callbacks+={toml(callback)}")]
        return noether_command("verify-resume", spec, *added, *options)

    return call


def toml(table):
    return "{" + ", ".join(f"{key} = {json.dumps(value)}" for key, value in table.items()) + "}"


def lab_callback(name, every=1):
    return {"kind": f"lab.forgetful.{name}", "id": name.lower(), "every_n_updates": every}


def test_a_run_that_resumes_exactly_is_equal_at_every_interruption_and_at_the_end(verify):
    ended = verify(OFFLINE_LOSS)
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[0] == "tiny: 12 updates straight and interrupted, 6 an epoch"
    assert lines[1].split() == ["POINT", "COMPARED", "RESULT"]
    assert [line.split("  ")[0] for line in lines[2:7]] == [
        *(f"interrupted after update {update}" for update in (1, 3, 6, 11)),
        "end after update 12",
    ]
    assert {line.split()[-1] for line in lines[2:8]} == {"equal"}
    assert lines[-1] == "the interrupted run equals the straight one, bit by bit"


def test_nothing_is_left_behind(verify, workplace):
    before = sorted(path.name for path in workplace.iterdir())
    handler = signal.getsignal(signal.SIGTERM)
    verify(OFFLINE_LOSS)
    assert sorted(path.name for path in workplace.iterdir()) == sorted([*before, "tiny.toml"])
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_callback_that_forgets_its_state_is_named_with_the_missing_state(verify):
    ended = verify(lab_callback("Forgetful"), options=["--at", "5"])
    assert ended.code == 1
    assert "metrics.jsonl: own/seen of callback 'forgetful': 6.0 straight, 1.0 interrupted, at update 6" in ended.out
    assert "callback 'forgetful': seen was 5 after update 5, and 0 when the run continued" in ended.out
    assert "help: return it from state_dict()" in ended.out
    assert ended.out.splitlines()[-1] == "the runs differ"


def test_weights_that_differ_are_reported_with_the_file_the_tensor_and_the_deviation(verify):
    ended = verify(lab_callback("Overdoes", every=3), options=["--at", "4,8"])
    assert ended.code == 1
    rows = {line.split("  ")[0]: line.split()[-1] for line in ended.out.splitlines()[2:5]}
    assert rows == {
        "interrupted after update 4": "equal",
        "interrupted after update 8": "differs",
        "end after update 12": "differs",
    }
    told = next(line for line in ended.out.splitlines() if line.startswith("  model.safetensors: layers."))
    assert "values differ, by" in told
    assert "callback 'overdoes': strength was 0.25 after update 4, and 0.0 when the run continued" in ended.out


def test_a_run_that_ends_elsewhere_is_reported(verify):
    ended = verify(lab_callback("Impatient"), options=["--at", "2"])
    assert ended.code == 1
    assert "the straight run ended after update 4" in ended.out
    assert "callback 'impatient': seen was 2 after update 2, and 0 when the run continued" in ended.out


def test_a_run_that_is_not_reproducible_is_reported(verify):
    ended = verify(lab_callback("Moody"), options=["--at", "3"])
    assert ended.code == 1
    assert "this differs before the first interruption: the run itself is not repeatable" in ended.out


def test_a_run_that_ends_before_the_first_interruption_is_refused(verify):
    ended = verify(lab_callback("Impatient"), options=["--at", "9"])
    assert ended.code == 2
    assert "the run ends after update 4, before it could be interrupted" in ended.err


def test_times_are_not_a_difference_and_are_reported(verify):
    ended = verify(lab_callback("Clock"))
    assert ended.code == 0
    assert "not compared, because it differs in every run: clock" in ended.out


def test_a_state_that_cannot_be_restored_is_reported_with_the_callback(verify):
    ended = verify(lab_callback("FailsToReturn"))
    assert ended.code == 1
    assert "error: resumed after update 1, the run fails: " in ended.err
    assert "KeyError: 'question'" in ended.err
    assert "raised by callback 'failstoreturn'" in ended.err


@pytest.mark.parametrize(
    "tables",
    [
        {"transforms": [{"kind": "normalize", "properties": ["x"]}]},
        {
            "model": {
                "kind": "mlp",
                "hidden": [8],
                "dropout": 0.3,
                "optimizer": {"kind": "SGD", "lr": 0.01, "momentum": 0.9},
            }
        },
    ],
    ids=["transform", "dropout and momentum"],
)
def test_runs_with_state_outside_of_callbacks_are_equal(verify, tables):
    ema = {"kind": "ema", "every_n_epochs": 1, "target_factors": [0.5]}
    ended = verify(ema, OFFLINE_LOSS, options=["--at", "1,2,3,4,5,6,7,8,9,10,11"], **tables)
    assert ended.code == 0, ended.out


def test_json_holds_every_point(verify):
    ended = verify(options=["--at", "7", "--json"])
    report = json.loads(ended.out)
    assert (report["updates"], report["updates_per_epoch"]) == (12, 6)
    assert [point["where"] for point in report["points"]] == [
        "interrupted after update 7",
        "end after update 12",
        "whole run",
    ]
    assert {point["difference"] for point in report["points"]} == {None}


def test_a_long_run_is_shortened(verify):
    ended = verify(options=["-s", "trainer.max_epochs=1000", "--updates", "9", "--at", "8"])
    assert ended.code == 0
    assert ended.out.startswith("tiny: 9 updates straight")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--at", "12"], "a run of 12 updates cannot be interrupted after 12"),
        (["--at", "two"], "--at two: expected numbers of updates"),
        (["-s", "trainer.max_epochs=0"], "the run trains nothing"),
        (["-s", "trainer.max_epochs=null"], "max_epochs"),
    ],
)
def test_what_cannot_be_verified_is_refused(verify, options, told):
    ended = verify(options=options)
    assert ended.code == 2
    assert told in ended.err


def test_a_run_that_resumes_another_one_can_be_verified(verify, finish):
    every_update = {"kind": "checkpoint", "every_n_updates": 1}
    finish({"trainer.callbacks": [every_update], "checkpoints.keep_last": 12}, run_id="first")
    ended = verify(initializer={"kind": "resume", "run_id": "first", "checkpoint": "E0_U2_S16"}, options=["--at", "4"])
    assert ended.code == 0, ended.out + ended.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_from_elsewhere_ends_the_command(verify, number):
    sends = {"kind": "lab.callbacks.Signals", "every_n_updates": 1, "numbers": [int(number)], "at_update": 2}
    assert verify(sends).code == 128 + number


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["experiment.toml", "smoke/digits.toml", "smoke/every-callback.toml"])
def test_every_spec_that_we_ship_resumes_exactly(noether_command, spec):
    ended = noether_command("verify-resume", SPECS / spec)
    assert ended.code == 0, ended.out
