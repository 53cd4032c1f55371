"""What a spec only names may change between two attempts: values of the environment, code, plugins and data."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from noether.checkpoint.paths import checkpoint_folders, read_manifest
from noether.errors import UsageError
from noether.runs.resume.facts import code_changes
from noether.runs.resume.resume import preview, resume

TOKEN = "a-token-of-much-entropy-1"


@pytest.fixture
def settings(settings, monkeypatch):
    """References to the environment: two that alter training, one that does not, and a secret."""
    for name, value in {"MY_LR": "0.01", "MY_SEED": "3", "MY_INTERVAL": "2", "MY_TOKEN": TOKEN}.items():
        monkeypatch.setenv(name, value)
    token = {"kind": "lab.callbacks.Diary", "every_n_updates": 9, "diary": {"env": "MY_TOKEN", "secret": True}}
    return {
        **settings,
        "model.optimizer.lr": {"env": "MY_LR"},
        "seed": {"env": "MY_SEED"},
        "trainer.log_every_n_updates": {"env": "MY_INTERVAL"},
        "trainer.callbacks": [*settings["trainer.callbacks"], token],
    }


def newest(outcome):
    return read_manifest(checkpoint_folders(outcome.run_dir / "checkpoints")[-1])


@pytest.mark.parametrize("name", ["MY_LR", "MY_SEED"])
def test_a_value_of_the_environment_that_alters_training_is_a_change_of_the_spec(
    failed, run, settings, monkeypatch, name
):
    monkeypatch.setenv(name, "0.02" if name == "MY_LR" else "4")
    key = "model.optimizer.lr" if name == "MY_LR" else "seed"
    assert any(f"{key}: another value" in line for line in preview(failed.run_dir))
    for begin in (
        lambda: run(settings, run_id="mine", resume="auto"),
        lambda: resume(failed.run_dir, quiet=True),
    ):
        with pytest.raises(UsageError) as caught:
            begin()
        assert key in caught.value.message
        assert "allow-spec-change" in caught.value.hint
    assert run(settings, run_id="mine", resume="auto", allow_spec_change=True).status == "FINISHED"


def test_other_values_and_a_rotated_secret_are_free(failed, finish, settings, monkeypatch, uninterrupted, remains):
    monkeypatch.setenv("MY_INTERVAL", "3")
    monkeypatch.setenv("MY_TOKEN", "another-token-of-much-entropy-2")
    found, expected = remains(finish(settings, run_id="mine", resume="auto")), remains(uninterrupted)
    del found["metrics"], expected["metrics"]
    assert found == expected


def test_no_digest_of_a_secret_is_kept_and_none_that_a_table_of_digests_finds(failed, uninterrupted):
    facts, others = newest(failed).facts, newest(uninterrupted).facts
    values = {key for key in facts if key.startswith("value ")}
    assert values == {"value model.optimizer.lr", "value seed", "value trainer.log_every_n_updates"}
    assert all(facts[key] != others[key] for key in values)
    known = {hashlib.sha256(text.encode()).hexdigest() for text in ("0.01", "3", "2", TOKEN)}
    assert not known & set(facts.values())
    assert all(TOKEN.encode() not in path.read_bytes() for path in failed.run_dir.rglob("*") if path.is_file())


def change_code(lab):
    (lab / "failing.py").write_text((lab / "failing.py").read_text() + "\n# changed\n")


def change_data(lab):
    path = lab.parent / "train.npz"
    with np.load(path) as arrays:
        changed = {name: array.copy() for name, array in arrays.items()}
    changed["x"][0, 0] += 1
    np.savez(path, **changed)


SHARDED = """
from pathlib import Path

import numpy as np

from noether.config.components import DatasetBaseConfig
from noether.data import InMemoryDataset

class Config(DatasetBaseConfig):
    pattern: str

    def compared_files(self):
        return sorted(Path.cwd().glob(self.pattern))

class Sharded(InMemoryDataset):
    def __init__(self, dataset_config: Config):
        with np.load(dataset_config.compared_files()[0]) as arrays:
            super().__init__(dict(arrays), dataset_config)
"""


def test_files_that_a_data_set_says_it_reads_are_compared(run, settings, lab):
    (lab / "sharded.py").write_text(SHARDED)
    train = {"kind": "lab.sharded.Sharded", "pattern": "tr*n.npz"}
    settings = {**settings, "datasets.train": train}
    run_dir = run(settings, run_id="mine").run_dir

    def changes():
        return [line for line in preview(run_dir) if line.startswith("code ") and "datasets.train changed" in line]

    assert not changes()
    np.savez(lab.parent / "trn.npz", x=[0.0])
    assert changes()
    (lab.parent / "trn.npz").unlink()
    assert not changes()
    change_data(lab)
    with pytest.raises(UsageError, match=r"datasets\.train changed"):
        run(settings, run_id="mine", resume="auto", strict_code=True)


@pytest.mark.parametrize(
    ("change", "named"), [(change_code, "lab.failing"), (change_data, "datasets.train.path")], ids=["code", "data"]
)
def test_changed_code_and_data_are_named_and_refused_on_request(failed, run, settings, lab, change, named):
    assert not [line for line in preview(failed.run_dir) if line.startswith("code ")]
    change(lab)
    assert [line for line in preview(failed.run_dir) if line.startswith("code ") and named in line]
    with pytest.raises(UsageError) as caught:
        run(settings, run_id="mine", resume="auto", strict_code=True)
    assert named in caught.value.message
    assert run(settings, run_id="mine", resume="auto").status == "FINISHED"
    assert named in (failed.run_dir / "log.txt").read_text()


def test_unchanged_code_is_no_change(failed, finish, settings, uninterrupted, remains):
    assert remains(finish(settings, run_id="mine", resume="auto", strict_code=True)) == remains(uninterrupted)
    assert "other code" not in (failed.run_dir / "log.txt").read_text()


def test_the_command_refuses_changed_code(failed, noether_command, lab):
    change_code(lab)
    ended = noether_command("resume", failed.run_dir, "--strict-code")
    assert ended.code == 2
    assert "lab.failing" in ended.err


def test_another_version_of_a_plugin_is_a_change():
    before = {"version noether-plugin-x": "1.0", "version gone": "1.0", "code a.b": "1"}
    now = {"version noether-plugin-x": "1.1", "version new": "1.0", "code a.b": "1"}
    assert code_changes(before, now) == ["noether-plugin-x 1.0 → 1.1"]
