"""Layers of a spec, the environment and formats on the command line."""

import json
import tomllib
from pathlib import Path

import tomli_w

import noether

SECRET = "correct-horse-battery"


def test_overrides_and_removals_take_effect_in_their_order(noether_command, spec_file):
    spec = spec_file(seed=1)
    first = noether_command(
        "check", spec, "--unset", "seed", "-s", "seed=5", "-s", "trainer.zzz=1", "--unset=trainer.zzz"
    )
    assert (first.code, first.err) == (0, "")
    second = noether_command("check", spec, "-s", "trainer.zzz=1", "--unset", "trainer.zzz", "--unset", "trainer.zzz")
    assert second.code == 2
    assert " --> command line, argument 3   [trainer.zzz]" in second.err


def test_problems_as_json_and_for_github(noether_command, spec_file):
    spec = spec_file(seed="x")
    as_json = noether_command("check", spec, "--format", "json")
    assert (as_json.code, as_json.err) == (2, "")
    (problem,) = json.loads(as_json.out)
    line = spec.read_text().splitlines().index('seed = "x"') + 1
    assert (problem["code"], problem["path"]) == ("wrong-type", "seed")
    assert problem["places"] == [{"file": "tiny.toml", "line": line, "column": 8, "endLine": line, "endColumn": 11}]
    github = noether_command("check", spec, "--format", "github")
    assert github.out == (
        f'::error file=tiny.toml,line={line},col=8,title=wrong-type::seed: found the string "x", expected an integer\n'
    )
    assert noether_command("check", spec_file(seed=1), "--format", "json").out == "[]\n"
    (missing,) = json.loads(noether_command("check", "none.toml", "--format", "json").out)
    assert (missing["code"], missing["places"]) == ("unreadable-file", [])


def test_a_run_of_layers_can_be_run_again_from_its_resolved_spec(spec_file, tiny_spec, monkeypatch):
    monkeypatch.setenv("SEED", "7")
    spec_file()
    Path("top.toml").write_text('extends = ["tiny.toml"]\nseed = { env = "SEED" }\nmodel.hidden = [4]\n')
    first = noether.run("top.toml", unset=["trainer.max_epochs"], overrides=["trainer.max_updates=2"], quiet=True)
    resolved = first.run_dir / "spec.resolved.toml"
    assert tomllib.loads(resolved.read_text())["seed"] == {"env": "SEED"}
    assert "extends" not in resolved.read_text()
    second = noether.run(resolved, quiet=True)
    weights = [next(one.run_dir.glob("checkpoints/*/model.safetensors")).read_bytes() for one in (first, second)]
    assert weights[0] == weights[1]
    assert (second.run_dir / "spec.resolved.toml").read_text() == resolved.read_text()


def test_a_secret_is_in_no_file_and_no_message_of_a_run(noether_command, tiny_spec, lab, monkeypatch):
    monkeypatch.setenv("TOKEN", SECRET)
    Path("lab/secrets.py").write_text(
        "import logging\n"
        "from noether.core.callbacks.periodic import PeriodicCallback\n"
        "from noether.config.components import CallBackBaseConfig\n"
        "class TellsConfig(CallBackBaseConfig):\n"
        "    token: str = ''\n"
        "class Tells(PeriodicCallback):\n"
        "    def __init__(self, callback_config: TellsConfig, **kwargs):\n"
        "        super().__init__(callback_config, **kwargs)\n"
        "        self.token = callback_config.token\n"
        "    def periodic_callback(self, **kwargs):\n"
        "        logging.getLogger('noether.tells').info('the token is %s', self.token)\n"
        "        raise ValueError('cannot log in with ' + self.token)\n"
    )
    token = {"env": "TOKEN", "secret": True}
    tiny_spec["trainer"]["callbacks"] = [{"kind": "lab.secrets.Tells", "every_n_updates": 1, "token": token}]
    Path("tells.toml").write_text(tomli_w.dumps(tiny_spec))
    for arguments in (["--run-id", "a"], ["--run-id", "b", "--traceback"]):
        ended = noether_command("run", "tells.toml", *arguments)
        assert ended.code == 1
        assert "the token is ***" in ended.out
        assert "cannot log in with ***" in ended.err
        assert SECRET not in ended.out + ended.err
    written = [path for path in Path("runs").rglob("*") if path.is_file()]
    assert len(written) > 5
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]
