"""Errors before training: one clear message, exit code 2, and no trace of a run."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest


def test_a_missing_spec(refusal):
    message = refusal("run", "nowhere.toml")
    assert message.startswith("error[unreadable-file]: ")
    assert "nowhere.toml" in message


def test_a_directory_as_spec(refusal, workplace):
    Path("specs").mkdir()
    Path("specs/a.toml").write_text("")
    message = refusal("run", "specs")
    assert message.startswith("error[unreadable-file]: ")
    assert "it holds a.toml" in message


def test_a_spec_that_cannot_be_read(refusal, workplace):
    Path("loop.toml").symlink_to("loop.toml")
    message = refusal("run", "loop.toml")
    assert message.startswith("error[unreadable-file]: ")
    assert "Too many levels of symbolic links" in message


def test_a_pipe_as_spec(refusal, workplace):
    os.mkfifo("pipe.toml")
    assert refusal("run", "pipe.toml").startswith("error[unreadable-file]: ")


def test_an_oversized_spec(refusal, workplace):
    Path("big.toml").write_text("#" * 1_100_000)
    assert refusal("run", "big.toml").startswith("error[too-large]: ")


def test_a_spec_that_is_nested_too_deeply(refusal, workplace):
    Path("deep.toml").write_text("a = " + "[" * 5000 + "]" * 5000)
    assert refusal("run", "deep.toml").startswith("error[too-large]: ")


def test_a_spec_that_is_not_utf_8(refusal, workplace):
    Path("latin.toml").write_bytes('name = "Größe"'.encode("latin-1"))
    message = refusal("run", "latin.toml")
    assert message.startswith("error[unreadable-file]: ")
    assert "byte 0xf6 at offset 10" in message


def test_a_spec_that_is_not_toml(refusal, workplace):
    Path("broken.toml").write_text("spec = 1\nname = digits\n")
    message = refusal("run", "broken.toml")
    assert message.startswith("error[invalid-toml]: ")
    assert " --> broken.toml:2:8" in message


def test_an_empty_spec_says_what_is_missing(refusal, workplace):
    Path("empty.toml").write_text("")
    message = refusal("run", "empty.toml")
    assert message.count("error[missing-key]: ") == 2
    assert "[model]" in message
    assert "[trainer]" in message


def test_an_unknown_key_names_the_nearest(refusal, spec_file, tiny_spec):
    message = refusal("run", spec_file(trainer=tiny_spec["trainer"] | {"max_epoch": 3}))
    assert "error[unknown-key]: " in message
    assert "Did you mean 'max_epochs'?" in message


@pytest.mark.parametrize("table", ["loader", "checkpoints", "plugins"])
def test_an_unknown_key_in_every_table(refusal, spec_file, table):
    message = refusal("run", spec_file(**{table: {"nonsense": 1}}))
    assert message.startswith("error[unknown-key]: ")
    assert f"[{table}.nonsense]" in message


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.kind=mpl", "mlp"),
        ("model.optimizer.kind=AdamWW", "AdamW"),
        ("trainer.loss_fn=huberr", "huber"),
        ("datasets.train.kind=digit", "digits"),
        ("model.optimizer.schedule=cosin", "cosine"),
        ("trackers.0.kind=mlfow", "mlflow"),
    ],
)
def test_an_unknown_kind_names_the_nearest(refusal, spec_file, override, expected):
    message = refusal("run", spec_file(), "-s", override)
    assert message.startswith("error[unknown-kind]: ")
    assert f"Did you mean '{expected}'?" in message


@pytest.mark.parametrize(
    ("override", "code"),
    [
        ("trainer.max_epoch=3", "unknown-key"),
        ("trainr.max_epochs=3", "unknown-key"),
        ("trainer.max_epochs", "invalid-override"),
        ("trainer.max_epochs=", "invalid-override"),
        ("trainer.callbacks[ema].every_n_epochs=2", "unknown-path"),
        ("seed.deep=1", "wrong-type"),
        ("model.hidden=[8", "invalid-override"),
    ],
)
def test_a_wrong_override_is_reported_as_it_was_typed(refusal, spec_file, override, code):
    message = refusal("run", spec_file(), "-s", override)
    assert message.startswith(f"error[{code}]: ")
    assert f" | {override}\n" in message


@pytest.mark.parametrize(
    ("override", "code", "expected"),
    [
        ("trainer.max_epochs=1.5", "wrong-type", "found the number 1.5, expected an integer"),
        ('trainer.max_epochs="3"', "wrong-type", 'found the string "3", expected an integer'),
        ("trainer.add_default_callbacks=yes", "wrong-type", 'found the string "yes", expected true or false'),
        ("trainer.max_epochs=-1", "out-of-range", "found the integer -1, expected at least 0"),
        ("trainer.effective_batch_size=0", "out-of-range", "expected at least 1"),
        ("model.hidden=8", "wrong-type", "found the integer 8, expected a list"),
        ("seed=-1", "out-of-range", "found the integer -1, expected at least 0"),
        ("model.optimizer.lr=fast", "wrong-type", 'found the string "fast", expected a number'),
        ("device=tpu", "wrong-value", "device"),
        ("name=Big Name", "wrong-value", "lower-case"),
    ],
)
def test_a_value_of_the_wrong_type_says_found_and_expected(refusal, spec_file, override, code, expected):
    message = refusal("run", spec_file(), "-s", override)
    assert message.startswith(f"error[{code}]: ")
    assert expected in message


def test_two_limits(refusal, spec_file):
    message = refusal("run", spec_file(), "-s", "trainer.max_updates=5")
    assert message.startswith("error[conflicting-keys]: ")
    assert "max_epochs and max_updates" in message


def test_no_limit(refusal, spec_file, tiny_spec):
    del tiny_spec["trainer"]["max_epochs"]
    message = refusal("run", spec_file())
    assert message.startswith("error[wrong-value]: ")
    assert "found none, expected exactly one of max_epochs, max_updates, max_samples" in message


def test_all_problems_are_shown_at_once(refusal, spec_file):
    message = refusal("run", spec_file(), "-s", "model.hidden=8", "-s", "seed=-1", "-s", "trainer.max_epochs=many")
    assert "model.hidden" in message
    assert "seed" in message
    assert "trainer.max_epochs" in message
    assert "3 problems in" in message


def test_a_callback_without_an_interval_and_one_with_two(refusal, spec_file, tiny_spec):
    callbacks = [{"kind": "lr"}, {"kind": "lr", "id": "b", "every_n_epochs": 1, "every_n_updates": 5}]
    message = refusal("run", spec_file(trainer=tiny_spec["trainer"] | {"callbacks": callbacks}))
    assert "error[missing-interval]: " in message
    assert "error[conflicting-keys]: " in message
    assert "[trainer.callbacks.0]" in message
    assert "[trainer.callbacks.1]" in message


@pytest.mark.parametrize(
    "kind", ["os.system", "builtins.eval", "subprocess.Popen", "antigravity.geohash", "torch.hub.os.system"]
)
@pytest.mark.parametrize("place", ["model", "trainer.loss_fn", "datasets.train"])
def test_a_dotted_path_out_of_what_is_trusted_is_refused(refusal, spec_file, kind, place):
    message = refusal("run", spec_file(), "-s", f'{place}={{kind="{kind}"}}')
    assert message.startswith("error[not-trusted]: ")
    assert f"kind '{kind}'" in message
    assert "antigravity" not in sys.modules


def test_installed_code_that_no_plugin_brings_is_refused_without_importing_it(refusal, spec_file, install):
    install("rogue", {}, {"rogue": "raise SystemExit('imported')"})
    message = refusal("run", spec_file(), "-s", 'model={kind="rogue.Model"}')
    assert message.startswith("error[not-trusted]: ")
    assert "--trust rogue" in message
    assert "rogue" not in sys.modules


def test_a_missing_data_file(refusal, spec_file):
    message = refusal("run", spec_file(), "-s", "datasets.train.path=trian.npz")
    assert "trian.npz does not exist" in message
    assert "test.npz, train.npz" in message


@pytest.mark.parametrize("damage", [lambda data: b"no archive", lambda data: data[:100], lambda data: b""])
def test_a_damaged_data_file(refusal, spec_file, damage):
    path = spec_file()
    data = Path("train.npz")
    data.write_bytes(damage(data.read_bytes()))
    assert "train.npz cannot be read as .npz" in refusal("run", path)


def test_a_data_file_that_lacks_a_column(refusal, spec_file):
    message = refusal("run", spec_file(), "-s", 'datasets.train.properties={x="x", y_target="y_tarjet"}')
    assert "found 'y_tarjet', expected one of x, y_target. Did you mean 'y_target'?" in message


def test_a_property_that_no_sample_has(refusal, spec_file):
    message = refusal("run", spec_file(), "-s", 'trainer.forward_properties=["z"]')
    assert "trainer.forward_properties: found ['z']" in message


def test_arrays_of_different_lengths(refusal, spec_file):
    path = spec_file()
    np.savez("train.npz", x=np.zeros((5, 3), "f4"), y_target=np.zeros((4, 2), "f4"))
    assert "found x: 5, y_target: 4" in refusal("run", path)


def test_a_batch_larger_than_the_data_set(refusal, spec_file):
    message = refusal("run", spec_file(), "-s", "trainer.effective_batch_size=49")
    assert "found 48 samples" in message
    assert "set effective_batch_size to at most 48" in message


def test_an_optimizer_that_torch_refuses(refusal, spec_file):
    assert "Invalid learning rate" in refusal("run", spec_file(), "-s", "model.optimizer.lr=-1.0")


def test_a_model_without_an_optimizer(refusal, spec_file):
    assert "the model 'model' has no optimizer" in refusal("run", spec_file(model={"kind": "mlp"}))


def test_a_frozen_pattern_that_matches_nothing(refusal, spec_file):
    message = refusal("run", spec_file(), "-s", 'model.frozen=["encoder.*"]')
    assert "found 'encoder.*'" in message


def test_a_hook_that_does_not_exist_and_one_with_a_wrong_argument(refusal, spec_file, tiny_spec, lab):
    callbacks = [{"kind": "lab.wrong_hooks.Typo", "every_n_epochs": 1}]
    message = refusal("run", spec_file(trainer=tiny_spec["trainer"] | {"callbacks": callbacks}))
    assert "after_trainning" in message
    assert "after_training" in message
    assert "no argument 'counter'" in message


def test_a_plugin_that_fails_to_import(refusal, spec_file, install):
    install(
        "noether-plugin-sick",
        {"noether.plugins": {"sick": "noether_plugin_sick"}},
        {"noether_plugin_sick": "import no_such_module_anywhere\n"},
    )
    message = refusal("run", spec_file(), "-p", "sick")
    assert "cannot import plugin 'sick' of noether-plugin-sick 1.2" in message
    assert "No module named 'no_such_module_anywhere'" in message
    assert "noether_plugin_sick.py:1" in message
    assert "the package that has the module 'no_such_module_anywhere'" in message


def test_a_callback_of_a_plugin_that_fails_to_import(refusal, spec_file, tiny_spec, install):
    install(
        "noether-plugin-sick",
        {"noether.callbacks": {"fever": "noether_plugin_sick:Fever"}},
        {"noether_plugin_sick": "1 / 0\n"},
    )
    callbacks = [{"kind": "fever", "every_n_epochs": 1}]
    message = refusal("run", spec_file(trainer=tiny_spec["trainer"] | {"callbacks": callbacks}))
    assert "cannot import callback 'fever' of noether-plugin-sick 1.2: ZeroDivisionError" in message


def test_a_broken_plugin_that_is_not_named_has_no_effect(noether_command, spec_file, install):
    install(
        "noether-plugin-sick",
        {
            "noether.callbacks": {"fever": "noether_plugin_sick:Fever"},
            "noether.plugins": {"sick": "noether_plugin_sick"},
        },
        {"noether_plugin_sick": "1 / 0\n"},
    )
    assert noether_command("run", spec_file(), "--quiet").code == 0


def test_an_unknown_plugin(refusal, spec_file):
    assert "'nobody'" in refusal("run", spec_file(), "-p", "nobody")


@pytest.mark.parametrize("run_id", ["../elsewhere", "a/b", "", ".hidden", "x" * 200])
def test_a_run_id_that_cannot_be_a_folder(noether_command, spec_file, workplace, run_id):
    ended = noether_command("run", spec_file(), "--run-id", run_id)
    assert ended.code == 2
    assert "wrong run id" in ended.err
    assert not Path("runs").exists()


def test_an_output_that_is_a_file(refusal, spec_file):
    path = spec_file(output="train.npz")
    assert "train.npz is a file, expected a folder for runs" in refusal("run", path)


def test_a_run_id_that_is_taken_leaves_that_run_alone(noether_command, spec_file):
    spec = spec_file()
    assert noether_command("run", spec, "--run-id", "one", "--quiet").code == 0
    before = {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()}
    ended = noether_command("run", spec, "--run-id", "one")
    assert ended.code == 2
    assert "runs/one exists already" in ended.err
    assert {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run"], "SPEC"),
        (["rnu", "tiny.toml"], "rnu"),
        (["run", "tiny.toml", "--epochs", "3"], "--epochs"),
        ([], "Usage"),
    ],
)
def test_a_command_line_that_cannot_be_read(noether_command, arguments, expected):
    ended = noether_command(*arguments)
    assert ended.code == 2
    assert expected in ended.err + ended.out
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    "arguments",
    [
        "predict trained --data train.npz --out {}.npz",
        "predict trained --data {}.npz --out new.npz",
        "checkpoint export trained --out {}.pt",
        "spec diff {} spec.toml",
    ],
)
def test_a_name_that_is_too_long(noether_command, run, arguments):
    run(run_id="trained")
    ended = noether_command(*arguments.format("x" * 300).split())
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: ")
