"""`noether runs list|show|compare|delete` on real runs."""

from __future__ import annotations

import csv
import io
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noether.cli import runs as verbs_of_runs
from noether.runs.folder.lock import RunLock

IDS = ["lr0.01-seed0", "lr0.01-seed1", "lr0.001-seed0", "lr0.001-seed1"]


@pytest.fixture
def runs(four_runs: Path, workplace: Path) -> Path:
    """The four runs, in `runs` of the working folder."""
    return Path(shutil.copytree(four_runs, workplace / "runs"))


@pytest.fixture
def done(runs: Path, noether_command: Callable[..., Any]) -> Callable[..., str]:
    """Calls a verb of `noether runs`, checks that it succeeds, and returns its output."""

    def call(*arguments: str | Path) -> str:
        ended = noether_command("runs", *arguments)
        assert (ended.code, ended.err) == (0, ""), ended
        return str(ended.out)

    return call


@pytest.fixture
def refused(runs: Path, noether_command: Callable[..., Any]) -> Callable[..., str]:
    """Calls a verb that refuses, and returns its message."""

    def call(*arguments: str | Path) -> str:
        ended = noether_command("runs", *arguments)
        assert (ended.code, ended.out) == (2, ""), ended
        assert ended.err.startswith("error")
        assert "help: " in ended.err
        return str(ended.err)

    return call


def rows(table: str) -> list[list[str]]:
    return [line.split() for line in table.splitlines()[1:]]


# list


def test_the_list_has_a_line_for_each_run_with_metrics_and_the_settings_that_differ(done: Callable[..., str]) -> None:
    table = done("list")
    head = table.splitlines()[0].split()
    assert head[:6] == ["ID", "STATUS", "CREATED", "DURATION", "UPDATES", "SEED"]
    assert head[6:] == ["model.optimizer.lr", "rmse/test/y", "BEST", "r2/test/y", "BEST"]
    assert [row[0] for row in rows(table)] == IDS
    assert all(row[1] == "FINISHED" for row in rows(table))


def test_the_list_is_filtered_and_sorted_by_settings_and_metrics(done: Callable[..., str]) -> None:
    worst_first = rows(done("list", "--where", "model.optimizer.lr=0.001", "--sort", "-rmse/test/y"))
    assert {row[0] for row in worst_first} == set(IDS[2:])
    values = {run["id"]: run["evaluations"] for run in json.loads(done("list", "--json"))}
    rmse = {run: next(one["final"] for one in found if one["key"] == "rmse/test/y") for run, found in values.items()}
    assert [row[0] for row in worst_first] == sorted(IDS[2:], key=lambda run: -rmse[run])
    assert [row[0] for row in rows(done("list", "--where", f"rmse/test/y<={min(rmse.values())!r}"))] == [
        min(rmse, key=lambda run: rmse[run])
    ]
    assert [row[0] for row in rows(done("list", "--sort", "-seed", "--where", "seed>0"))] == [IDS[1], IDS[3]]
    assert done("list", "--where", "seed=7") == "no run in runs fulfils all conditions\n"
    assert done("list", "--status", "failed", "--status", "killed") == "no run in runs fulfils all conditions\n"


def test_metrics_can_be_chosen(done: Callable[..., str]) -> None:
    head = done("list", "--metric", "optim/lr", "--metric", "loss/test/total").splitlines()[0].split()
    assert head[-3:] == ["optim/lr", "loss/test/total", "BEST"]


def test_json_and_csv_have_the_same_numbers(done: Callable[..., str]) -> None:
    as_json = json.loads(done("list", "--json"))
    as_csv = list(csv.DictReader(io.StringIO(done("list", "--csv"))))
    assert [row["id"] for row in as_csv] == [run["id"] for run in as_json] == IDS
    for row, run in zip(as_csv, as_json, strict=True):
        assert {one["key"]: one["final"] for one in run["evaluations"]} == {
            one["key"]: float(row[one["key"]]) for one in run["evaluations"]
        }
        assert run["settings"] == {"seed": int(row["seed"]), "model.optimizer.lr": float(row["model.optimizer.lr"])}
        assert (float(row["seconds"]), row["folder"]) == (run["seconds"], run["folder"])


def test_damaged_folders_are_listed_with_the_reason(runs: Path, done: Callable[..., str]) -> None:
    (runs / IDS[0] / "run.json").write_text("{")
    (runs / IDS[1] / "metrics.jsonl").unlink()
    (runs / IDS[1] / "metrics.jsonl").symlink_to("/etc/passwd")
    table = done("list")
    assert {row[0] for row in rows(table)} >= set(IDS)
    assert f"{IDS[0]} is damaged: run.json is missing, damaged or not a plain file" in table
    assert f"{IDS[1]} is damaged: metrics.jsonl cannot be read: found a symbolic link" in table


def test_names_of_metrics_from_a_strangers_run_are_shown_escaped(runs: Path, done: Callable[..., str]) -> None:
    names = ["loss/é<script>alert(1)</script>", "a\u202eb/x", "=x=1/y", '"quoted"', "loss/new\nline"]
    line = {"update": 12, "epoch": 2, "sample": 96, "time": 1.0, "metrics": dict.fromkeys(names[:-1], 0.5)}
    control = line | {"metrics": {names[-1]: 0.25, "\x1b[31m": 1.0}}
    path = runs / IDS[0] / "metrics.jsonl"
    path.write_text(path.read_text() + json.dumps(line) + "\n" + json.dumps(control) + "\n")
    for output in (done("show", IDS[0]), done("list", "--csv"), done("compare", *IDS[:2])):
        assert "<script>" in output
        assert "a\\u202eb/x" in output
        assert output.replace("\n", "").isprintable()
    assert ",'=x=1/y," in done("list", "--csv")  # no formula in a spreadsheet
    assert rows(done("list", "--where", "=x=1/y=0.5", "--metric", '"quoted"'))[0][0] == IDS[0]
    keys = {one["key"] for one in json.loads(done("show", IDS[0], "--json"))["evaluations"]}
    assert set(names[:-1]) <= keys
    assert not keys & {names[-1], "\x1b[31m"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("list", "nowhere"), "nothing there at nowhere"),
        (("list", "runs/lr0.01-seed0"), "noether runs show runs/lr0.01-seed0"),
        (("list", "tiny.toml"), "a file at tiny.toml"),
        (("list", "--sort", "rmse/test/x"), "Did you mean 'rmse/test/y'?"),
        (("list", "--metric", "rmse/test/x"), "Did you mean 'rmse/test/y'?"),
        (("list", "--where", "model.hiden=[8]"), "Did you mean 'model.hidden'?"),
        (("list", "--status", "FINISHD"), "Did you mean 'FINISHED'?"),
        (("list", "--json", "--csv"), "expected one of them"),
        (("compare", "lr0.01-seed0", "runs/lr0.01-seed0"), "one run under 2 names"),
        (("show", "tiny.toml"), "found the spec tiny.toml"),
        (("show", "lr0.01-seed2"), "Did you mean 'lr0.01-seed"),
        (("show", "."), "expected a folder with run.json"),
        (("compare", "lr0.01-seed0"), "expected at least two"),
        (("compare", "lr0.01-seed0", "tiny.toml"), "found the spec tiny.toml"),
        (("compare", "*", "--metric", "rmse/test/x"), "Did you mean 'rmse/test/y'?"),
        (("delete", "."), "expected a folder with run.json"),
        (("delete", "lr0.01-seed0", "tiny.toml"), "found the spec tiny.toml"),
    ],
)
def test_what_is_wrong_is_said_with_a_way_out(
    refused: Callable[..., str], arguments: tuple[str, ...], said: str
) -> None:
    Path("tiny.toml").write_text("spec = 1\n")
    assert said in refused(*arguments)


@pytest.mark.parametrize(
    "text",
    [
        "trainer = 3\nmodel = 'x'\ndatasets = [1]\nexpect = [2]",
        "trainer = { callbacks = 3 }\nname = 1\nseed = 'x'",
        "trainer = { callbacks = ['a', { kind = 1, metric_key = 2, callbacks = [3] }] }\nexpect = { a = 1 }",
        "datasets = { train = { kind = [1] }, test = 2 }\nmodel = [{ kind = 'x' }, { kind = 'x' }]",
        'name = "\\u001b[31m\\u202e"\nmodel = { kind = "\\n" }',
    ],
)
def test_a_spec_of_a_stranger_is_no_obstacle(runs: Path, done: Callable[..., str], text: str) -> None:
    shutil.rmtree(runs / IDS[0] / "checkpoints")
    (runs / IDS[0] / "spec.resolved.toml").write_text(text)
    for output in (done("list"), done("show", IDS[0]), done("compare", *IDS[:2]), done("list", "--csv")):
        assert output.replace("\n", "").isprintable()
    assert [row[0] for row in rows(done("list", "--where", "model.kind=mlp"))] == IDS[1:]


# show


def test_a_run_is_shown_with_its_end_its_metrics_and_what_to_do_next(done: Callable[..., str]) -> None:
    text = done("show", IDS[0])
    assert text.startswith(f"{IDS[0]}  FINISHED\n")
    for fact in ("tiny, seed 0", "update 12, epoch 2, 96 samples", "mlp, 50 parameters", "file, 48 samples"):
        assert fact in text
    assert any(line.split()[:1] == ["rmse/test/y"] and "E2_U12_S96" in line for line in text.splitlines())
    assert "mean time of an update" in text
    assert f"  noether eval runs/{IDS[0]}\n" in text
    assert "noether resume" not in text


def test_a_run_that_was_killed_shows_its_attempts_and_how_to_resume(runs: Path, done: Callable[..., str]) -> None:
    records = runs / IDS[0] / "attempts"
    first = {"started": 1e9, "pid": 1, "host": "h", "status": "RUNNING"}
    second = {"started": 1e9 + 100, "ended": 1e9 + 160, "status": "KILLED", "reason": "SIGTERM"}
    second["resumed_from"] = "step-000000000006"
    (records / "0001.json").write_text(json.dumps(first))
    (records / "0002.json").write_text(json.dumps(second))
    text = done("show", IDS[0])
    assert text.startswith(f"{IDS[0]}  KILLED: SIGTERM\n")
    assert f"  noether resume runs/{IDS[0]}\n" in text
    attempts = [line.split() for line in text.splitlines() if line.split()[:1] in (["1"], ["2"])]
    assert [row[-3:] for row in attempts] == [["KILLED", "-", "-"], ["update", "6", "SIGTERM"]]


def test_a_run_that_goes_on_is_shown_as_running(runs: Path, done: Callable[..., str]) -> None:
    with RunLock(runs / IDS[0]):
        assert done("show", IDS[0]).startswith(f"{IDS[0]}  RUNNING\n")


def test_json_holds_the_whole_spec_and_every_metric(done: Callable[..., str], four_runs: Path) -> None:
    found = json.loads(done("show", IDS[0], "--json"))
    assert found["settings"]["model"]["hidden"] == [8]
    assert found["metrics"]["model/parameters"] == 50
    assert [one["name"] for one in found["checkpoints"]] == ["E1_U6_S48", "E2_U12_S96"]
    assert found["attempts"][0]["status"] == "FINISHED"


def test_each_next_command_is_one_that_the_program_takes(
    done: Callable[..., str], noether_command: Callable[..., Any]
) -> None:
    for command in json.loads(done("show", IDS[0], "--json"))["next"]:
        words = shlex.split(command.replace("OTHER", IDS[1]))
        if "FILE" in words:
            words = ["noether", words[1], "--help"]
        assert noether_command(*words[1:]).code == 0, command


def test_a_run_of_another_version_is_shown_as_far_as_it_can_be_read_and_nothing_else(
    runs: Path, done: Callable[..., str], noether_command: Callable[..., Any]
) -> None:
    path = runs / IDS[0] / "run.json"
    body = json.loads(path.read_text()) | {"format": 7}
    del body["sha256"]
    path.write_text(json.dumps(body))
    text = done("show", IDS[0])
    assert "damaged     another version wrote it: found format 7 of run.json by Noether 0." in text
    assert "rmse/test/y" in text
    before = path.read_bytes()
    longer = ["-s", f"output={runs.absolute()}", "-s", "trainer.max_epochs=3", "--allow-spec-change"]
    on = ["run", f"runs/{IDS[0]}/spec.resolved.toml", "--run-id", IDS[0], "--resume", "auto", *longer]
    predict = ["predict", IDS[0], "--data", "x.npz", "--out", "y.npz"]
    for words in (["eval", IDS[0]], ["resume", IDS[0]], on, predict):
        refused = noether_command(*words)
        assert refused.code == 2
        assert "is of another version: found format 7 of run.json by Noether 0." in refused.err
    assert path.read_bytes() == before


# compare


def test_a_comparison_shows_settings_and_metrics_beside_each_other(done: Callable[..., str]) -> None:
    text = done("compare", IDS[0], IDS[2])
    assert "model.optimizer.lr  0.01  0.001" in text
    assert "rmse/test/y (lower is better)" in text
    assert "worse" in text
    assert "one seed each: no spread known" in text
    assert "seed " not in text.split("METRIC")[0].split("SETTING")[1]


def test_a_comparison_over_seeds_says_whether_the_difference_exceeds_the_spread(done: Callable[..., str]) -> None:
    text = done("compare", "lr0.01-*", "lr0.001-*", "--metric", "rmse/test/y")
    found = json.loads(done("compare", "lr0.01-*", "lr0.001-*", "--json"))
    metric = next(one for one in found["metrics"] if one["key"] == "rmse/test/y")
    first, second = metric["groups"]["A"], metric["groups"]["B"]
    assert f"{first['mean']:.5g} ± {first['deviation']:#.2g}" in text
    assert f"{second['verdict']} the spread of {second['margin']:#.2g}" in text
    assert second["difference"] == pytest.approx(second["mean"] - first["mean"])
    assert found["settings"] == {"model.optimizer.lr": {"A": 0.01, "B": 0.001}}
    table = list(csv.DictReader(io.StringIO(done("compare", "lr0.01-*", "lr0.001-*", "--csv"))))
    row = next(row for row in table if (row["metric"], row["group"]) == ("rmse/test/y", "B"))
    assert (float(row["difference"]), row["verdict"]) == (second["difference"], second["verdict"])


def test_runs_of_one_spec_are_compared_with_their_mean(done: Callable[..., str]) -> None:
    text = done("compare", IDS[0], IDS[1])
    assert "one group" in text
    assert text.splitlines()[3].split() == ["METRIC", "MEAN", IDS[0], IDS[1]]


def test_runs_of_one_id_are_told_apart(runs: Path, done: Callable[..., str]) -> None:
    shutil.copytree(runs / IDS[1], runs.parent / "elsewhere" / IDS[0])
    header = done("compare", IDS[0], f"elsewhere/{IDS[0]}").split("\n\n")[1].splitlines()[0].split()
    assert header == ["METRIC", "MEAN", f"runs/{IDS[0]}", f"elsewhere/{IDS[0]}"]
    done("report", IDS[0], f"elsewhere/{IDS[0]}", "--out", "both.html")
    assert f"elsewhere/{IDS[0]}<" in Path("both.html").read_text()


def test_groups_that_end_at_different_updates_say_so(runs: Path, done: Callable[..., str]) -> None:
    path = runs / IDS[2] / "metrics.jsonl"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if '"update": 12' not in line))
    assert "the runs ended at different updates" in done("compare", IDS[0], IDS[2])
    assert "the runs ended at different updates" not in done("compare", IDS[0], IDS[2], "--best")


# delete


def test_a_dry_run_names_what_would_go_and_removes_nothing(runs: Path, done: Callable[..., str]) -> None:
    (runs / IDS[0] / "notes.md").write_text("mine")
    text = done("delete", IDS[0], IDS[1], "--dry-run")
    assert f"runs/{IDS[0]}: " in text
    assert "with files that Noether has not written: notes.md" in text
    assert "mirror" not in text
    assert sorted(path.name for path in runs.iterdir()) == sorted(IDS)


def test_a_mirror_that_stays_is_named_without_its_password(runs: Path, done: Callable[..., str]) -> None:
    spec = runs / IDS[0] / "spec.resolved.toml"
    address = 'mirror = "sftp://me:geheim77@host/runs"'
    spec.write_text(spec.read_text().replace("[checkpoints]\n", f"[checkpoints]\n{address}\n"))
    (runs / IDS[1] / "mirror.json").write_text("{}")
    text = done("delete", *IDS[:2], "--dry-run")
    assert "without its mirror, from which --resume could fetch it again: sftp://me:" in text
    assert f"@host/runs/{IDS[0]}" in text
    assert "geheim77" not in text
    assert f"the run {IDS[1]}, at an address that the folder does not name" in text


def test_without_a_terminal_it_asks_for_yes(runs: Path, noether_command: Callable[..., Any]) -> None:
    ended = noether_command("runs", "delete", IDS[0])
    assert (ended.code, "--yes" in ended.err) == (2, True)
    assert (runs / IDS[0]).is_dir()


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 1), ("", 1)])
def test_at_a_terminal_it_asks(
    runs: Path, noether_command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, answer: str, code: int
) -> None:
    terminal = io.StringIO(answer)
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    ended = noether_command("runs", "delete", IDS[0])
    assert (ended.code, (runs / IDS[0]).exists()) == (code, bool(code))
    assert "delete 1 run?" in ended.out


def test_only_the_folder_of_the_run_goes_and_links_in_it_are_not_followed(runs: Path, done: Callable[..., str]) -> None:
    outside = Path("outside")
    outside.mkdir()
    (outside / "kept.txt").write_text("mine")
    (runs / IDS[0] / "outputs").symlink_to(outside.absolute())
    (runs / IDS[0] / "file").symlink_to((outside / "kept.txt").absolute())
    assert f"deleted {IDS[0]}" in done("delete", IDS[0], f"runs/{IDS[0]}", "--yes")
    assert sorted(path.name for path in runs.iterdir()) == sorted(IDS[1:])
    assert (outside / "kept.txt").read_text() == "mine"


def test_damaged_runs_can_be_deleted(runs: Path, done: Callable[..., str]) -> None:
    (runs / IDS[0] / "run.json").write_text("{")
    (runs / IDS[0] / "spec.resolved.toml").write_text("spec = ")
    shutil.rmtree(runs / IDS[0] / "checkpoints")
    done("delete", f"runs/{IDS[0]}", "--yes")
    assert not (runs / IDS[0]).exists()


def test_a_run_that_goes_on_a_link_and_a_project_are_refused(
    runs: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunLock(runs / IDS[0]):
        assert "is in use" in refused("delete", IDS[0], "--yes")
    (runs / "linked").symlink_to((runs / IDS[1]).absolute())
    assert "links are not followed" in refused("delete", "linked", "--yes")
    shutil.copy(runs / IDS[0] / "run.json", "run.json")
    (Path() / "pyproject.toml").touch()
    assert "is more than a run" in refused("delete", str(Path().absolute()), "--yes")
    shutil.copytree(runs / IDS[3], runs / IDS[2] / "more" / "inner")
    assert f"found the run runs/{IDS[2]}/more/inner" in refused("delete", IDS[2], "--yes")
    monkeypatch.chdir(runs / IDS[2])
    assert "is more than a run" in refused("delete", str(runs / IDS[2]), "--yes")
    assert sorted(path.name for path in runs.iterdir()) == sorted([*IDS, "linked"])


def test_one_wrong_run_among_several_keeps_all(runs: Path, refused: Callable[..., str]) -> None:
    refused("delete", IDS[0], "nothing", "--yes")
    assert sorted(path.name for path in runs.iterdir()) == sorted(IDS)


# Speed


def test_runs_are_listed_shown_and_compared_without_pytorch_and_mlflow(runs: Path) -> None:
    commands = (["list"], ["show", IDS[0]], ["compare", *IDS], ["delete", IDS[3], "--yes"])
    code = (
        f"import sys\nfrom noether.cli.main import main\nfor arguments in {commands!r}:\n"
        "    sys.argv = ['noether', 'runs', *arguments]\n    try:\n        main()\n"
        "    except SystemExit as end:\n        assert not end.code, arguments\n"
        "print([name for name in ('torch', 'mlflow', 'numpy') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout.splitlines()[-1]) == (0, "[]"), ended


def test_the_help_of_the_verbs_names_all_of_them() -> None:
    names = {command.name for command in verbs_of_runs.app.registered_commands}
    assert {"list", "show", "compare", "delete"} <= names
