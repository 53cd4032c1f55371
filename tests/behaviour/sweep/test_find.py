"""`noether lr-find` and `batch-find` on a real spec: the printed command works, and nothing else is left behind."""

import json
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]


def rates_of(found: Any) -> tuple[list[float], list[float]]:
    record = json.loads(found.out)
    return record["rates"], record["losses"]


def printed_command(found: Any) -> list[str]:
    line = next(line for line in found.out.splitlines() if line.startswith("  noether run"))
    return shlex.split(line)[1:]


def test_a_learning_rate_is_found_and_the_printed_command_trains_with_it(
    project: Path, noether_command: Command
) -> None:
    before = {path.name for path in project.iterdir()}
    found = noether_command("lr-find", "tiny.toml")
    assert found.code == 0, found.err
    assert {path.name for path in project.iterdir()} - before == {"tiny-lr-found.toml", "tiny-lr-found.png"}
    overlay = tomllib.loads((project / "tiny-lr-found.toml").read_text())
    assert overlay["extends"] == ["tiny.toml"]
    rate = overlay["model"]["optimizer"]["lr"]
    assert 1e-4 < rate < 1
    ran = noether_command(*printed_command(found), "--run-id", "r", "--quiet")
    assert ran.code == 0, ran.err
    resolved = tomllib.loads((project / "runs/r/spec.resolved.toml").read_text())
    assert resolved["model"]["optimizer"]["lr"] == rate


def test_the_test_is_the_same_every_time_and_whatever_the_schedule(project: Path, noether_command: Command) -> None:
    found = [
        noether_command("lr-find", "tiny.toml", "--json", "--updates", "60", *more)
        for more in ([], [], ["-s", 'model.optimizer.schedule={kind="cosine"}'])
    ]
    first, *others = map(rates_of, found)
    assert all(other == first for other in others)
    assert first[0][0] == 1e-7


@pytest.mark.parametrize("optimizer", ['{kind="SGD",lr=0.1,momentum=0.9}', '{kind="LBFGS",lr=1.0}'])
def test_any_optimizer_is_tested(project: Path, noether_command: Command, optimizer: str) -> None:
    found = noether_command("lr-find", "tiny.toml", "--json", "-s", f"model.optimizer={optimizer}")
    assert found.code in (0, 1), found.err
    assert len(json.loads(found.out)["losses"]) >= 20


def test_a_range_that_ends_in_numbers_that_are_not_finite_ends_the_test_without_an_error(
    project: Path, noether_command: Command
) -> None:
    found = noether_command(
        "lr-find", "tiny.toml", "--json", "--highest", "1e30", "--updates", "20", "-s", 'model.optimizer.kind="SGD"'
    )
    record = json.loads(found.out)
    assert "finite" in record["end"] or "diverges" in record["end"]
    assert found.code in (0, 1)
    assert record["rates"][-1] < 1e30


def test_several_parameter_groups_keep_the_ratios_of_their_rates(project: Path, noether_command: Command) -> None:
    (project / "noether_plugin.py").write_text(
        "import json\nfrom pathlib import Path\nimport noether\n\nseen = []\n\n\n@noether.hookimpl\n"
        "def before_optimizer_step(update_counter, model):\n"
        "    seen.append([group['lr'] for group in model.optimizer.torch_optimizer.param_groups])\n\n\n"
        "@noether.hookimpl\ndef after_training(update_counter):\n    Path('seen.json').write_text(json.dumps(seen))\n"
    )
    groups = 'model.optimizer.groups=[{match=["*.bias"],lr_scale=0.1}]'
    found = noether_command("lr-find", "tiny.toml", "-p", "noether_plugin", "-s", groups)
    assert found.code == 0, found.err
    seen = json.loads((project / "seen.json").read_text())
    assert all(max(rates) / min(rates) == pytest.approx(10) for rates in seen)
    assert seen[0][0] == pytest.approx(1e-7)


def test_a_range_in_which_nothing_is_learnt_suggests_nothing(project: Path, noether_command: Command) -> None:
    found = noether_command("lr-find", "tiny.toml", "--lowest", "1e-12", "--highest", "1e-10")
    assert found.code == 1
    assert not (project / "tiny-lr-found.toml").exists()


@pytest.mark.parametrize("arguments", [["--lowest", "0"], ["--lowest", "2", "--highest", "1"], ["--updates", "3"]])
def test_a_wrong_range_is_an_error_of_usage(project: Path, noether_command: Command, arguments: list[str]) -> None:
    assert noether_command("lr-find", "tiny.toml", *arguments).code == 2


def test_memory_that_runs_out_during_the_test_is_one_error(project: Path, noether_command: Command) -> None:
    (project / "noether_plugin.py").write_text(
        "import noether\n\n\n@noether.hookimpl\ndef before_optimizer_step(update_counter):\n"
        "    raise RuntimeError('CUDA out of memory')\n"
    )
    found = noether_command("lr-find", "tiny.toml", "-p", "noether_plugin")
    assert found.code == 1
    assert found.err.startswith("error: training failed: ")
    assert "Traceback" not in found.err


def test_a_file_of_the_user_is_never_replaced(project: Path, noether_command: Command) -> None:
    (project / "mine.toml").write_text("name = 'mine'\n")
    for verb in ("lr-find", "batch-find"):
        found = noether_command(verb, "tiny.toml", "--out", "mine.toml")
        assert found.code == 2
        assert "mine.toml" in found.err
    assert (project / "mine.toml").read_text() == "name = 'mine'\n"


@pytest.mark.parametrize("out", ["made", "tiny.toml/x.toml"])
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_measured(
    project: Path, noether_command: Command, out: str
) -> None:
    (project / "made").mkdir()
    found = noether_command("lr-find", "tiny.toml", "--out", out)
    assert (found.code, found.out) == (2, "")
    assert f"cannot write {out}: " in found.err


def test_values_that_no_file_can_hold_are_printed_as_options(project: Path, noether_command: Command) -> None:
    found = noether_command("lr-find", "tiny.toml", "-s", "model.optimizer.lr=0.5")
    assert found.code == 0, found.err
    assert "note:" in found.err
    assert printed_command(found)[-2] == "-s"
    assert not (project / "tiny-lr-found.toml").exists()


def test_a_batch_size_is_found_and_the_printed_command_trains_with_it(project: Path, noether_command: Command) -> None:
    found = noether_command("batch-find", "tiny.toml", "--seconds", "0.01", "--largest", "16")
    assert found.code == 0, found.err
    size = tomllib.loads((project / "tiny-batch-found.toml").read_text())["trainer"]["effective_batch_size"]
    assert 1 <= size <= 16
    ran = noether_command(*printed_command(found), "--run-id", "r", "--quiet")
    assert ran.code == 0, ran.err
    assert {path.name for path in (project / "runs").iterdir()} == {"r"}
