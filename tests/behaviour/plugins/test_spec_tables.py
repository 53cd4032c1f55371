"""Tables that plugins bring: `[x]` of a spec, validated by a class of the plugin."""

import json
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

import noether
from noether.errors import PluginError, SpecError
from noether.runs.resume.resume import resume
from noether.spec.errors.problem import InvalidSpecError
from noether.testing.builders import tiny_spec
from noether.testing.contract import write_spec

METER = '''
"""Reads the meter."""

from pathlib import Path

from pydantic import Field

import noether
from noether.config.components import SpecTable


class MeterTable(SpecTable):
    """Readings of the meter."""

    every: int = Field(10, ge=1, description="Updates between two readings.")
    file: Path = Field(Path("meter.csv"), description="File of the readings.")


class StrictTable(SpecTable):
    """Has an option without a default."""

    address: str = Field(description="Address of the meter.")


class Loose:
    """Is no table."""


@noether.hookimpl
def run_finished(run, outcome):
    print("every", run.spec.meter.every)
'''


@pytest.fixture
def plugin(install) -> Callable[..., Path]:
    """Installs `noether-plugin-NAME 1.0` with a run plugin and tables, by name with the name of their class."""

    def installed(name: str = "meter", **tables: str) -> Path:
        module = f"{name}_module"
        points = {key: f"{module}:{target}" for key, target in (tables or {"meter": "MeterTable"}).items()}
        return install(f"noether-plugin-{name}", {"plugins": {name: module}, "tables": points}, **{module: METER})

    return installed


def refused(folder: Path, **tables) -> list[tuple]:
    """Return code, path and position of each problem of the tiny spec with some tables."""
    with pytest.raises(InvalidSpecError) as error:
        noether.load_spec(write_spec(folder, tiny_spec(**tables)))
    lines = (folder / "spec.toml").read_text().splitlines()
    found = []
    for problem in error.value.problems:
        place = problem.places[0]
        found.append((problem.code, ".".join(map(str, problem.path)), lines[place.line - 1][place.column - 1 :]))
    return found


USED = {"plugins": {"use": ["meter"]}}


def test_a_used_plugin_has_its_table_with_defaults_in_the_resolved_spec(workplace: Path, plugin, capsys):
    plugin()
    outcome = noether.run(write_spec(workplace, tiny_spec(**USED)), run_id="a", quiet=True)
    resolved = tomllib.loads((outcome.run_dir / "spec.resolved.toml").read_text())
    assert resolved["meter"] == {"every": 10, "file": str(workplace / "meter.csv")}
    assert resolved["resolved"]["kinds"]["meter"] == "meter from noether-plugin-meter 1.0"
    assert "every 10" in capsys.readouterr().out


def test_a_value_of_its_table_may_change_when_a_run_is_continued(workplace: Path, plugin, capsys):
    plugin()
    noether.run(write_spec(workplace, tiny_spec(**USED)), run_id="a", quiet=True)
    assert resume("a", quiet=True, set={"meter.every": 3, "trainer.max_updates": 14}).status == "FINISHED"
    assert "every 3" in capsys.readouterr().out


def test_an_installed_plugin_that_is_not_named_changes_nothing(workplace: Path, plugin):
    path = write_spec(workplace, tiny_spec())
    before = noether.load_spec(path)
    plugin()
    assert type(noether.load_spec(path).spec) is type(before.spec)
    assert "meter_module" not in sys.modules


def test_to_write_its_table_names_a_plugin(workplace: Path, plugin):
    plugin()
    assert noether.load_spec(write_spec(workplace, tiny_spec(meter={"every": 2}))).spec.meter.every == 2


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"evry": 2}, ("unknown-key", "meter.evry", "evry = 2")),
        ({"every": "2"}, ("wrong-type", "meter.every", '"2"')),
        ({"every": 1.5}, ("wrong-type", "meter.every", "1.5")),
        ({"every": 0}, ("out-of-range", "meter.every", "0")),
    ],
)
def test_its_problems_have_places(workplace: Path, plugin, table, problem):
    plugin()
    assert refused(workplace, meter=table) == [problem]


def test_several_problems_are_told_at_once(workplace: Path, plugin):
    plugin()
    found = refused(workplace, meter={"every": 0}, sed=1, plugins={"use": ["meterr"]})
    assert sorted(code for code, *_ in found) == ["out-of-range", "unknown-key", "unknown-kind"]


def test_an_unknown_table_near_an_installed_one_names_its_plugin(workplace: Path, plugin):
    plugin()
    with pytest.raises(InvalidSpecError, match=r"'meter'(.|\n)*noether-plugin-meter 1.0"):
        noether.load_spec(write_spec(workplace, tiny_spec(metre={"every": 3})))
    assert "meter_module" not in sys.modules


def test_a_required_option_is_asked_for_where_the_plugin_is_used(workplace: Path, plugin):
    plugin(strict="StrictTable")
    assert refused(workplace, **USED) == [("missing-key", "plugins.use.0", '"meter",')]
    assert refused(workplace, strict={}) == [("missing-key", "strict.address", "[strict]")]
    loaded = noether.load_spec(write_spec(workplace, tiny_spec(strict={"address": "here"})))
    assert loaded.spec.strict.address == "here"


def test_one_table_of_two_plugins_is_an_error_where_it_is_not_clear(workplace: Path, plugin):
    plugin()
    plugin("other", meter="StrictTable")
    with pytest.raises(InvalidSpecError) as error:
        noether.load_spec(write_spec(workplace, tiny_spec(meter={"every": 3})))
    assert all(origin in str(error.value) for origin in ("noether-plugin-meter 1.0", "noether-plugin-other 1.0"))
    assert refused(workplace, plugins={"use": ["meter", "other"]}) == [("ambiguous-kind", "plugins.use.1", '"other",')]
    loaded = noether.load_spec(write_spec(workplace, tiny_spec(meter={"every": 3}, **USED)))
    assert loaded.spec.meter.every == 3


@pytest.mark.parametrize("name", ["trainer", "copy", "two-words", "_own"])
def test_a_name_that_a_table_cannot_have_is_refused_on_use(workplace: Path, plugin, name: str):
    plugin(**{name: "MeterTable"})
    noether.load_spec(write_spec(workplace, tiny_spec()))
    (problem,) = refused(workplace, **USED)
    assert problem[1] == "plugins.use.0"


@pytest.mark.parametrize("target", ["Loose", "Missing"])
def test_a_table_of_the_wrong_type_names_its_plugin(workplace: Path, plugin, target: str):
    plugin(meter=target)
    with pytest.raises(InvalidSpecError, match=r"noether-plugin-meter 1\.0"):
        noether.load_spec(write_spec(workplace, tiny_spec(meter={"every": 3})))


def test_overrides_and_the_environment_reach_it(workplace: Path, plugin, monkeypatch):
    plugin()
    path = write_spec(workplace, tiny_spec(**USED))
    monkeypatch.setenv("EVERY", "7")
    assert noether.load_spec(path, ["meter.every=5"]).spec.meter.every == 5
    loaded = noether.load_spec(write_spec(workplace, tiny_spec(meter={"every": {"env": "EVERY"}})))
    assert loaded.spec.meter.every == 7
    with pytest.raises(InvalidSpecError) as error:
        noether.load_spec(path, ["meter.every=x"])
    assert [problem.code for problem in error.value.problems] == ["wrong-type"]


def test_the_verbs_that_look_at_specs_know_it(workplace: Path, plugin, noether_command):
    plugin()
    path = write_spec(workplace, tiny_spec(**USED))
    plan = noether_command("plan", path, "--json")
    assert json.loads(plan.out)["tables"] == {"meter": {"every": 10, "file": str(workplace / "meter.csv")}}
    assert json.loads(plan.out)["plugins"] == {"meter": "noether-plugin-meter 1.0"}
    assert "[meter]" in noether_command("plan", path).out
    for arguments in (("meter.every", path), ("meter.every",)):
        assert "Updates between two readings." in noether_command("spec", "explain", *arguments).out
    table = tomllib.loads(noether_command("spec", "resolve", path).out)["meter"]
    assert table["every"] == 10
    schema = json.loads(noether_command("spec", "schema").out)
    assert "Readings of the meter. From noether-plugin-meter 1.0." in json.dumps(schema["else"]["properties"]["meter"])
    assert "meter" not in schema["else"]["required"]
    assert "every" in noether_command("plugins", "info", "meter", "--role", "table").out


def test_a_plugin_may_change_its_table_within_what_it_allows(workplace: Path, install):
    text = METER + "\n@noether.hookimpl\ndef configure_spec(spec): spec.meter.every = {}"
    install(
        "noether-plugin-meter",
        {"plugins": {"good": "good", "bad": "bad"}, "tables": {"meter": "good:MeterTable"}},
        good=text.format(4),
        bad=text.format(0),
    )
    path = write_spec(workplace, tiny_spec())
    outcome = noether.run(path, plugins=["good"], quiet=True)
    assert tomllib.loads((outcome.run_dir / "spec.resolved.toml").read_text())["meter"]["every"] == 4
    with pytest.raises(InvalidSpecError, match="bad"):
        noether.run(path, plugins=["bad"], quiet=True)


def test_a_changed_table_of_a_plugin_that_has_configured_the_run_is_noted(workplace: Path, install):
    text = METER + "\n@noether.hookimpl\ndef configure_spec(spec): spec.trainer.max_updates = spec.meter.every\n"
    install(
        "noether-plugin-meter", {"plugins": {"meter": "meter"}, "tables": {"meter": "meter:MeterTable"}}, meter=text
    )
    outcome = noether.run(write_spec(workplace, tiny_spec(**USED)), set={"meter.every": 5}, quiet=True)
    resolved = outcome.run_dir / "spec.resolved.toml"
    assert noether.load_spec(resolved).notes == noether.load_spec(resolved, set={"meter.every": 5}).notes == ()
    again = noether.load_spec(resolved, set={"meter.every": 7})
    assert again.spec.trainer.max_updates == 5
    (note,) = again.notes
    assert note.startswith("meter.every: meter is not asked again")


def test_a_local_file_has_tables_too(workplace: Path):
    (workplace / "noether_plugin.py").write_text(METER + '\nTABLES = {"meter": MeterTable}\n')
    path = write_spec(workplace, tiny_spec(meter={"every": 6}))
    loaded = noether.load_spec(path, plugins=["noether_plugin"])
    assert loaded.spec.meter.every == 6
    with pytest.raises(SpecError):
        noether.load_spec(path)


@pytest.mark.parametrize("tables", ["[]", '{"meter": Loose}', '{"trainer": MeterTable}'])
def test_wrong_tables_of_a_local_file_are_refused(workplace: Path, tables: str):
    (workplace / "noether_plugin.py").write_text(METER + f"\nTABLES = {tables}\n")
    with pytest.raises((PluginError, SpecError)):
        noether.load_spec(write_spec(workplace, tiny_spec()), plugins=["noether_plugin"])


RAISING = """
from pydantic import Field, field_validator, model_validator

from noether.config.components import SpecTable
from noether.core.callbacks import PeriodicCallback
from noether.core.schemas.callbacks import CallBackBaseConfig


class MeterTable(SpecTable):
    every: int = Field(10, description="Updates.")

    @field_validator("every")
    @classmethod
    def _served(cls, every):
        raise RuntimeError("the meter does not answer")


class DefaultTable(SpecTable):
    every: int = Field(10, description="Updates.")

    @model_validator(mode="after")
    def _served(self):
        raise {error}("the meter does not answer")


class MeterConfig(CallBackBaseConfig):
    every: int = Field(10, description="Updates.")

    @field_validator("every")
    @classmethod
    def _served(cls, every):
        raise RuntimeError("the meter does not answer")


class MeterCallback(PeriodicCallback):
    def __init__(self, callback_config: MeterConfig, **kwargs):
        super().__init__(callback_config, **kwargs)
"""


@pytest.fixture
def raising(install) -> Callable[[str, str], Path]:
    """Installs `noether-plugin-meter` whose validators raise."""

    def installed(table: str, error: str = "RuntimeError") -> Path:
        points = {"plugins": {"meter": "meter"}, "tables": {"meter": f"meter:{table}"}}
        text = RAISING.format(error=error)
        return install("noether-plugin-meter", {**points, "callbacks": {"meter": "meter:MeterCallback"}}, meter=text)

    return installed


def test_a_validator_that_fails_is_a_problem_of_its_plugin_at_the_table(workplace: Path, raising):
    raising("MeterTable")
    assert refused(workplace, meter={"every": 2}) == [("unusable-kind", "meter", "[meter]")]
    with pytest.raises(InvalidSpecError, match=r"noether-plugin-meter 1\.0(.|\n)*the meter does not answer.*meter\.py"):
        noether.load_spec(write_spec(workplace, tiny_spec(meter={"every": 2})))


@pytest.mark.parametrize("error", ["RuntimeError", "ValueError", "SystemExit"])
def test_a_table_that_refuses_its_own_defaults_is_a_problem_where_its_plugin_is_used(workplace, raising, error):
    raising("DefaultTable", error)
    assert refused(workplace, **USED) == [("unusable-kind", "plugins.use.0", '"meter",')]


def test_a_validator_of_a_callback_that_fails_is_a_problem_of_its_plugin(workplace: Path, raising):
    raising("MeterTable")
    trainer = tiny_spec()["trainer"] | {"callbacks": [{"kind": "meter", "every_n_epochs": 1, "every": 2}]}
    with pytest.raises(InvalidSpecError, match=r"noether-plugin-meter 1\.0") as error:
        noether.load_spec(write_spec(workplace, tiny_spec(trainer=trainer)))
    assert [(problem.code, problem.path[:3]) for problem in error.value.problems] == [
        ("unusable-kind", ("trainer", "callbacks", 0))
    ]


def test_an_unknown_plugin_is_reported_once_and_not_its_table(workplace: Path):
    found = refused(workplace, plugins={"use": ["notify"]}, notify={"address": "me"}, trainr={})
    assert sorted((code, path) for code, path, _ in found) == [
        ("unknown-key", "trainr"),
        ("unknown-kind", "plugins.use.0"),
    ]


def test_a_table_of_a_plugin_that_is_not_used_is_noted(workplace: Path, plugin, noether_command):
    plugin()
    loaded = noether.load_spec(write_spec(workplace, tiny_spec(meter={"every": 2})))
    (note,) = loaded.notes
    assert "noether-plugin-meter 1.0" in note
    assert 'use = ["meter"]' in note
    assert note in noether_command("check", workplace / "spec.toml").out
    assert noether.load_spec(write_spec(workplace, tiny_spec(meter={"every": 2}, **USED))).notes == ()


def test_a_table_of_a_local_file_that_is_not_used_says_what_to_type(workplace: Path):
    (workplace / "noether_plugin.py").write_text(METER + '\nTABLES = {"meter": MeterTable}\n')
    with pytest.raises(InvalidSpecError) as error:
        noether.load_spec(write_spec(workplace, tiny_spec(meter={"every": 6}, other={})))
    hints = {problem.path[0]: problem.hint for problem in error.value.problems}
    assert 'use = ["noether_plugin"]' in hints["meter"]
    assert "noether_plugin" not in hints["other"]


def test_the_schema_of_a_spec_knows_the_tables_of_its_local_file(workplace: Path, noether_command):
    (workplace / "specs").mkdir()
    (workplace / "specs" / "noether_plugin.py").write_text(METER + '\nTABLES = {"meter": MeterTable}\n')
    path = write_spec(workplace / "specs", tiny_spec(plugins={"use": ["noether_plugin"]}))
    known = json.loads(noether_command("spec", "schema", path).out)["else"]["properties"]
    assert "Readings of the meter. From noether_plugin.py." in json.dumps(known["meter"])
    assert "meter" not in json.loads(noether_command("spec", "schema").out)["else"]["properties"]


SECRETIVE = """
from pydantic import Field, SecretStr

import noether
from noether.config.components import SpecTable


class MeterTable(SpecTable):
    key: SecretStr | None = Field(None, description="Key.")
    keys: dict[str, SecretStr] = Field(default_factory=dict, description="More.")
    usual: SecretStr = Field(SecretStr("of everyone"), description="Default.")


@noether.hookimpl
def run_finished(run, outcome):
    table = run.spec.meter
    print("keys", table.key and len(table.key.get_secret_value()), table.usual.get_secret_value())
"""


@pytest.fixture
def secretive(install):
    points = {"plugins": {"meter": "meter"}, "tables": {"meter": "meter:MeterTable"}}
    install("noether-plugin-meter", points, meter=SECRETIVE)


@pytest.mark.parametrize(
    ("table", "place"), [({"key": "opensesame"}, "meter.key"), ({"keys": {"a": "opensesame"}}, "meter.keys.a")]
)
def test_a_secret_that_a_spec_writes_is_refused_and_not_shown(workplace: Path, secretive, table, place):
    with pytest.raises(InvalidSpecError) as error:
        noether.load_spec(write_spec(workplace, tiny_spec(meter=table, **USED)))
    assert [(one.code, ".".join(map(str, one.path))) for one in error.value.problems] == [("written-password", place)]
    assert "opensesame" not in str(error.value)


def test_a_secret_of_the_environment_is_the_same_after_a_resume(workplace: Path, secretive, monkeypatch, capsys):
    monkeypatch.setenv("METER_KEY", "opensesame")
    table = {"key": {"env": "METER_KEY", "secret": True}}
    outcome = noether.run(write_spec(workplace, tiny_spec(meter=table, **USED)), run_id="a", quiet=True)
    resume("a", quiet=True, set={"trainer.max_updates": 14})
    assert capsys.readouterr().out.count("keys 10 of everyone") == 2
    assert "opensesame" not in (outcome.run_dir / "spec.resolved.toml").read_text()
