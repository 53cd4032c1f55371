"""Damaged files of a run folder never stop a run that has a sound checkpoint, and never change what it computes."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path

import pytest

from noether.checkpoint.manifest import SPEC, Manifest
from noether.errors import UsageError
from noether.runs.resume.resume import preview, resume

METRICS = ("metrics.jsonl", "nonscalars.jsonl")
FILES = ["spec.resolved.toml", "spec.toml", *METRICS, "run.json", "attempts/0001.json", "log.txt", "checkpoints/pins/x"]
NOTICED = {"spec.resolved.toml", "metrics.jsonl", "run.json"}


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    data = bytearray(path.read_bytes())
    if data:
        data[len(data) // 2] ^= 1
    path.write_bytes(data)


def become_a_folder(path):
    path.unlink()
    (path / "inner").mkdir(parents=True)


DAMAGES = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "cut": cut,
    "one bad byte": flip,
    "binary": lambda path: path.write_bytes(bytes(range(256)) * 40),
    "a folder": become_a_folder,
}
HOW = {
    "run": lambda finish, settings, run_id: finish(settings, run_id=run_id, resume="auto"),
    "resume": lambda finish, settings, run_id: resume(f"runs/{run_id}", quiet=True),
}


@pytest.fixture
def settings(settings):
    """Everything that has state, and a callback that logs arrays."""
    histogram = {"kind": "lab.metrics.Histogram", "every_n_updates": 2}
    return {**settings, "trainer.callbacks": [*settings["trainer.callbacks"], histogram]}


@pytest.fixture
def damaged(failed):
    """Copy the failed run, damage a file of the copy, and return the copy's folder."""

    def copy(name, damage):
        run = failed.run_dir.with_name(f"{name.replace('/', '-')}-{damage.replace(' ', '-')}")
        shutil.copytree(failed.run_dir, run)
        path = run / name
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            path.write_text("a pin")
        DAMAGES[damage](path)
        return run

    return copy


@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
@pytest.mark.parametrize("name", FILES)
def test_a_run_with_a_damaged_file_goes_on_and_ends_with_the_same_bytes(  # C6
    damaged, settings, uninterrupted, finish, remains, figures, name, how
):
    expected = remains(uninterrupted)
    lines = expected.pop("metrics")
    for damage in DAMAGES:
        run = damaged(name, damage)
        outcome = how(finish, settings, run.name)
        assert outcome.status == "FINISHED", (damage, outcome.error)
        found = remains(outcome)
        own_lines = found.pop("metrics")
        assert found == expected, damage
        if name == "metrics.jsonl":
            assert [line for line in own_lines if line["update"] > 6] == [line for line in lines if line["update"] > 6]
            assert sum(line not in lines for line in own_lines) <= (damage == "one bad byte")
        else:
            assert own_lines == lines, damage
        if name in NOTICED:
            assert f"{Path(name).name} " in (run / "log.txt").read_text(), damage
            assert damage in ("missing", "empty") or any((run / "damaged").iterdir())
    figures("damaged text files", resumed=len(DAMAGES), tried=len(DAMAGES))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_preview_names_the_damage_and_changes_nothing(damaged, damage):
    for name in ("spec.resolved.toml", "run.json"):
        run = damaged(name, damage)
        before = {path: path.is_dir() or path.read_bytes() for path in run.rglob("*")}
        assert any(line.startswith(f"damaged     {name} ") for line in preview(run))
        assert {path: path.is_dir() or path.read_bytes() for path in run.rglob("*")} == before


@pytest.mark.parametrize("name", ["attempts", "spool", "abandoned"])
def test_a_file_in_the_place_of_a_folder_is_set_aside(failed, finish, settings, uninterrupted, remains, name):
    shutil.rmtree(failed.run_dir / name, ignore_errors=True)
    (failed.run_dir / name).write_text("no folder")
    assert f"damaged     {name} is not a folder" in preview(failed.run_dir)
    damage_newest(failed.run_dir)
    assert remains(finish(settings, run_id="mine", resume="auto")) == remains(uninterrupted)
    assert (failed.run_dir / "damaged" / f"0001-{name}").read_text() == "no folder"


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/null")], ids=["pipe", "link"])
def test_a_metrics_file_or_log_that_is_none_is_set_aside_and_not_written(failed, finish, settings, make):
    for name in ("metrics.jsonl", "nonscalars.jsonl", "log.txt"):
        (failed.run_dir / name).unlink(missing_ok=True)
        make(failed.run_dir / name)
    assert "damaged     metrics.jsonl is not a regular file" in preview(failed.run_dir)
    outcome = finish(settings, run_id="mine", resume="auto")
    assert outcome.status == "FINISHED"
    assert "is not a regular file" in (failed.run_dir / "log.txt").read_text()
    assert (failed.run_dir / "metrics.jsonl").read_text()


@pytest.mark.parametrize("of", ["host", "samples", "created"])
def test_a_byte_of_the_record_that_changed_and_still_parses_is_named(failed, finish, settings, of):
    path = failed.run_dir / "run.json"
    text = path.read_text()
    changed = {
        "host": text.replace('"python": "3', '"python": "2'),
        "samples": text.replace('"dtype": "float32"', '"dtype": "float16"', 1),
        "created": text.replace('"created": 1', '"created": 2'),
    }[of]
    assert changed != text
    path.write_text(changed)
    finish(settings, run_id="mine", resume="auto")
    assert "run.json cannot be read, or is not what was written" in (failed.run_dir / "log.txt").read_text()
    assert json.loads(path.read_text())["samples"] == json.loads(text)["samples"]


def test_the_number_of_an_attempt_with_a_damaged_record_is_not_used_again(failed, finish, settings):
    (failed.run_dir / "attempts/0001.json").write_text("garbage")
    finish(settings, run_id="mine", resume="auto")
    assert sorted(path.name for path in (failed.run_dir / "attempts").glob("*.json")) == ["0001.json", "0002.json"]
    assert "0001.json (the record of an attempt) cannot be read" in (failed.run_dir / "log.txt").read_text()


def damage_newest(run):
    (max((run / "checkpoints").glob("step-*")) / "model.safetensors").write_bytes(b"")


def test_a_copy_made_of_hard_links_goes_on_and_leaves_the_original_as_it_was(failed, uninterrupted, remains):
    copy = failed.run_dir.with_name("copy")
    shutil.copytree(failed.run_dir, copy, copy_function=os.link)
    (copy / "LOCK").unlink()
    before = {name: (failed.run_dir / name).read_bytes() for name in ("metrics.jsonl", "log.txt")}
    Path("failed-once").touch()
    assert remains(resume(copy, quiet=True)) == remains(uninterrupted)
    assert {name: (failed.run_dir / name).read_bytes() for name in before} == before


def test_a_repair_is_named_although_nothing_is_left_to_train(lab, finish, settings, capsys):
    Path("failed-once").touch()
    outcome = finish(settings, run_id="mine")
    spec = outcome.run_dir / "spec.resolved.toml"
    spec.write_text(spec.read_text().replace("max_batch_size = 4", "max_batch_size = 2"))
    capsys.readouterr()
    resume(outcome.run_dir, quiet=True)
    assert "damaged: spec.resolved.toml is not what was written" in capsys.readouterr().out


def test_a_digit_that_changed_in_the_saved_spec_never_changes_training(failed, uninterrupted, remains):
    spec = failed.run_dir / "spec.resolved.toml"
    assert "lr = 0.01" in spec.read_text()
    spec.write_text(spec.read_text().replace("lr = 0.01", "lr = 0.03"))
    outcome = resume(failed.run_dir, quiet=True)
    assert remains(outcome) == remains(uninterrupted)
    assert "lr = 0.01" in spec.read_text()


def test_the_spec_of_an_attempt_that_died_before_its_first_save_is_no_damage(failed, run, settings):
    changed = {**settings, "trainer.log_every_n_updates": 3}
    kept = {"trainer.callbacks": [*settings["trainer.callbacks"], {"kind": "lab.failing.Fails", "every_n_updates": 1}]}
    run({**changed, **kept}, run_id="mine", resume="auto")
    assert not [line for line in preview(failed.run_dir) if line.startswith("damaged")]


def forget_the_spec(run):
    """Make the checkpoints of a run those of an older version, which kept no spec and no hashes of metrics."""
    for step in (run / "checkpoints").glob("step-*"):
        body = json.loads((step / "manifest.json").read_bytes())
        manifest = Manifest.decode((step / "manifest.json").read_bytes())
        files = {name: record for name, record in manifest.files.items() if name != SPEC}
        old = dict(body, format=1, files={name: body["files"][name] for name in files})
        del old["logs"], old["sha256"]
        old["sha256"] = _digest(old)
        (step / "manifest.json").write_text(json.dumps(old))
        (step / SPEC).unlink(missing_ok=True)


def _digest(body):
    from noether.checkpoint import manifest

    return manifest._digest(body)


def test_a_run_of_an_older_version_goes_on(failed, finish, settings, uninterrupted, remains):
    forget_the_spec(failed.run_dir)
    assert remains(finish(settings, run_id="mine", resume="auto")) == remains(uninterrupted)


def test_a_spec_that_no_checkpoint_holds_is_compared_by_its_hash(failed, finish, run, settings, uninterrupted, remains):
    forget_the_spec(failed.run_dir)
    (failed.run_dir / "spec.resolved.toml").write_text("= damaged")
    with pytest.raises(UsageError, match="is lost"):
        run({**settings, "model.optimizer.lr": 0.02}, run_id="mine", resume="auto")
    assert remains(finish(settings, run_id="mine", resume="auto")) == remains(uninterrupted)


def test_damaged_metrics_of_an_older_version_are_repaired(failed, finish, settings, metric_lines):
    forget_the_spec(failed.run_dir)
    path = failed.run_dir / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"garbage\n" + b"".join(lines[2:]))
    outcome = finish(settings, run_id="mine", resume="auto")
    assert len([line for line in metric_lines(outcome) if line["update"] <= 6]) == len([0, 4, 6])


def test_what_was_set_aside_has_a_bound(failed, finish, settings):
    for number in range(12):
        folder = failed.run_dir / "damaged"
        folder.mkdir(exist_ok=True)
        (folder / f"{number + 1:04d}-log.txt").touch()
    (failed.run_dir / "run.json").write_text("damaged")
    finish(settings, run_id="mine", resume="auto")
    names = sorted(path.name for path in (failed.run_dir / "damaged").iterdir())
    assert len(names) == 8
    assert names[-1] == "0013-run.json"


def test_a_damaged_folder_of_a_stranger_leads_nowhere(failed, run, settings, caplog):
    elsewhere = Path("elsewhere")
    elsewhere.mkdir()
    (failed.run_dir / "damaged").symlink_to(elsewhere.absolute())
    (failed.run_dir / "run.json").write_text("damaged")
    with caplog.at_level(logging.ERROR), pytest.raises(Exception, match="link"):
        run(settings, run_id="mine", resume="auto")
    assert not any(elsewhere.iterdir())


def test_a_record_without_facts_gets_them_again(failed):
    run = failed.run_dir.with_name("without-facts")
    shutil.copytree(failed.run_dir, run)
    (run / "run.json").write_text("{}")
    assert resume(f"runs/{run.name}", quiet=True).status == "FINISHED"
    assert "environment" in json.loads((run / "run.json").read_text())
