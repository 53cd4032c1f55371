"""Figures, tables, histograms and files of whole runs: with accumulation, killed and resumed, evaluated, limited."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tomli_w

import noether
from noether.errors import UsageError

DRAWS = {"kind": "lab.results.Draws", "every_n_updates": 4}
CALLBACKS = [
    DRAWS,
    {"kind": "ema", "every_n_updates": 6, "target_factors": [0.5], "eval_callbacks": [DRAWS]},
    {"kind": "checkpoint", "every_n_updates": 3},
    {"kind": "lab.results.Dies", "every_n_updates": 1},
]
SETTINGS = {"trainer.callbacks": CALLBACKS, "trainer.max_batch_size": 4, "model.dropout": 0.2}
PERIODIC = ["given", "noise", "weights/curve", "weights/histogram"]


@pytest.fixture(autouse=True)
def at_the_lab(lab):
    """Specs name classes of the project `lab`."""


def listed(folder):
    """Return the results by update and key, without times."""
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    for line in lines:
        del line["time"]
        assert (folder / line["file"]).stat().st_size == line["size"]
    files = {path.relative_to(folder).as_posix() for path in folder.glob("results/**/*") if path.is_file()}
    assert files == {line["file"] for line in lines}
    return lines


def test_results_of_every_hook_belong_to_the_update_that_is_complete_then(finish):
    run = noether.load_run(finish(SETTINGS).run_dir)
    found = {key: rows["update"].tolist() for key, rows in run.results.groupby("key")}
    assert found["around"] == [0, 12]
    assert found["step"] == list(range(1, 13))
    assert [found[key] for key in PERIODIC] == [[4, 8, 12]] * 4
    assert [found[f"ema=0.5/{key}"] for key in PERIODIC] == [[4, 8, 12]] * 4
    assert run.table("step", 3)["accumulation_step"].tolist() == [1]
    assert run.table("weights/histogram")["count"].sum() == sum(each.numel() for each in run.model.parameters())
    assert all(path.is_file() for path in run.results["path"])


@pytest.mark.parametrize(
    ("key", "update", "hint"), [("steps", None, "step"), ("step", 99, "11, 12"), ("noise", None, "")]
)
def test_a_table_that_the_run_does_not_have_is_an_error_that_lists_those_that_it_has(finish, key, update, hint):
    run = noether.load_run(finish({**SETTINGS, "trainer.callbacks": [DRAWS]}).run_dir)
    with pytest.raises(UsageError) as caught:
        run.table(key, update)
    assert hint in str(caught.value)


def test_results_change_no_weight(finish, final_weights):
    without = [
        {**callback, "eval_callbacks": []} if callback["kind"] == "ema" else callback for callback in CALLBACKS[1:]
    ]
    plain = {**SETTINGS, "trainer.callbacks": without}
    assert final_weights(finish(SETTINGS, run_id="with")) == final_weights(finish(plain, run_id="without"))


@pytest.mark.parametrize("at", [7, pytest.param(12, marks=pytest.mark.long)])
def test_a_run_that_is_killed_and_resumed_has_the_same_results_and_its_tracker_gets_each(
    finish, tiny_spec, workplace, at
):
    settings = {**SETTINGS, "trackers": [{"kind": "lab.results.Keeps"}]}
    straight = finish(settings, run_id="straight").run_dir
    Path("tiny.toml").write_text(tomli_w.dumps(tables_of(tiny_spec, settings)))
    Path("die-at").write_text(str(at))
    command = [sys.executable, "-m", "noether", "run", "tiny.toml", "--run-id", "killed", "--resume", "auto", "--quiet"]
    assert subprocess.run(command, check=False).returncode == -9
    subprocess.run(command, check=True)
    killed = workplace / "runs/killed"
    assert listed(killed) == listed(straight)
    once, twice = (sorted(Path("tracked", name, "got.txt").read_text().splitlines()) for name in ("straight", "killed"))
    assert len(once) == len(listed(straight))
    assert sorted(set(twice)) == once
    in_doubt = {line.split()[0] for line in twice if twice.count(line) > 1}
    assert len(in_doubt) <= 1, "only results of the update that was being delivered at the kill may come again"


def tables_of(spec, changes):
    """Return the spec with the changes in it."""
    for path, value in changes.items():
        table, _, key = path.rpartition(".")
        place = spec
        for part in filter(None, table.split(".")):
            place = place.setdefault(part, {})
        place[key] = value
    return spec


def test_an_evaluation_keeps_its_own_results_and_those_of_the_last_one_go(finish, noether_command):
    run = finish({**SETTINGS, "trainer.callbacks": CALLBACKS[:3]}, run_id="r").run_dir
    before = listed(run)
    for _ in range(2):
        assert noether_command("eval", "r").code == 0
    (folder,) = (run / "evaluations").iterdir()
    keys = [line["key"] for line in listed(folder)]
    assert sorted(keys) == sorted(PERIODIC + [f"ema=0.5/{key}" for key in PERIODIC])
    assert listed(run) == before


def test_a_run_with_more_results_than_its_limit_ends_well_and_the_log_says_so_once(finish):
    run = finish({**SETTINGS, "trainer.max_results": 5}).run_dir
    assert len(listed(run)) == 5
    assert (run / "log.txt").read_text().count("trainer.max_results") == 1


def test_a_limit_may_change_when_the_run_is_resumed(finish):
    first = finish({**SETTINGS, "trainer.max_results": 5}, run_id="r")
    assert len(listed(first.run_dir)) == 5
    later = finish({**SETTINGS, "trainer.max_results": 50, "trainer.max_epochs": 3}, run_id="r", resume="auto")
    assert len(listed(later.run_dir)) > 5


def test_a_figure_that_is_none_names_its_key_and_the_callback(run):
    outcome = run({"trainer.callbacks": [{"kind": "lab.results.Wrong", "id": "mine", "every_n_updates": 1}]})
    assert (outcome.status, outcome.exit_code) == ("FAILED", 1)
    text = (outcome.run_dir / "log.txt").read_text() + str(outcome.error.__notes__)
    for part in ("'wrong/picture'", "callback 'mine'", "matplotlib figure"):
        assert part in text, text


def test_verify_resume_compares_the_results(finish, tiny_spec, noether_command):
    settings = {
        **SETTINGS,
        "trainer.callbacks": [*CALLBACKS[:3], {"kind": "lab.results.Clocked", "every_n_updates": 2}],
    }
    Path("tiny.toml").write_text(tomli_w.dumps(tables_of(tiny_spec, settings)))
    ended = noether_command("verify-resume", "tiny.toml", "--updates", "6", "--at", "2")
    assert "files of callbacks" in ended.out + ended.err
    assert "results.jsonl" in ended.out + ended.err
