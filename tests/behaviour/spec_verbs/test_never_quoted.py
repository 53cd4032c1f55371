"""Values of the environment and lines of files outside of the project never reach an output of a verb for CI."""

import copy
import json
from pathlib import Path

import pytest
import tomli_w

MARKER = "Zq7marker"
NUMBER = "7412374951"
VALUES = {
    "text": MARKER,
    "number": NUMBER,
    "dotted": f"{MARKER}_package.module.{MARKER}",
    "table": f'{{ {MARKER} = "{MARKER}" }}',
    "list": f'["{MARKER}", {NUMBER}]',
    "address": f"https://{MARKER}.example/{MARKER}",
}
CALLBACKS = [
    {"kind": "offline-loss", "id": "val", "every_n_epochs": 1, "dataset_key": "test"},
    {"kind": "best-metric", "every_n_epochs": 1, "source_metric_key": "loss/test/total", "target_metric_keys": ["lr"]},
]


def leaves(value, path=()):
    """Yield the paths of all values that are not tables."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        yield path
    for key, item in items or ():
        yield from leaves(item, (*path, key))


def with_reference(spec, path):
    spec = copy.deepcopy(spec)
    holder = spec
    for part in path[:-1]:
        holder = holder[part]
    holder[path[-1]] = {"env": "FROM_CI"}
    return spec


@pytest.fixture
def full_spec(tiny_spec):
    tiny_spec["trainer"]["callbacks"] = CALLBACKS
    tiny_spec["trainer"]["max_epochs"] = 1
    return tiny_spec | {"loader": {"num_workers": 0}, "seed": 1, "output": "runs", "plugins": {"use": ["x"]}}


def printed(ended):
    return ended.out + ended.err


@pytest.mark.parametrize("form", VALUES)
def test_a_value_of_the_environment_is_in_no_output(noether_command, full_spec, monkeypatch, form):
    monkeypatch.setenv("FROM_CI", VALUES[form])
    quoted = set()
    for path in leaves(full_spec):
        Path("ci.toml").write_text(tomli_w.dumps(with_reference(full_spec, path)))
        key = ".".join(map(str, path))
        outputs = [noether_command("check", "ci.toml", "--format", kind) for kind in ("text", "json", "github")]
        outputs.append(noether_command("spec", "explain", key, "ci.toml"))
        outputs.append(noether_command("spec", "explain", key, "ci.toml", "--json"))
        outputs.append(noether_command("run", "ci.toml", "--quiet", "-s", "plugins.use=[]"))
        for ended in outputs:
            if MARKER in printed(ended) or NUMBER in printed(ended):
                quoted.add((key, printed(ended)))
    assert not quoted


def test_the_error_names_the_variable_and_what_is_expected(noether_command, full_spec, monkeypatch):
    monkeypatch.setenv("FROM_CI", "abc")
    Path("ci.toml").write_text(tomli_w.dumps(with_reference(full_spec, ("trainer", "max_epochs"))))
    ended = noether_command("check", "ci.toml", "--format", "json")
    (problem,) = [found for found in json.loads(ended.out) if found["path"] == "trainer.max_epochs"]
    assert problem["code"] == "wrong-type"
    assert "the value of $FROM_CI, expected an integer" in problem["message"]
    assert "abc" not in ended.out


@pytest.fixture
def outside(tmp_path_factory):
    """A folder beside the project, with files of many formats that hold the marker."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "secrets.toml").write_text(f'[{MARKER}]\ntoken = "{MARKER}"\nmodel = "{MARKER}"\n')
    (folder / "passwd").write_text(f"root:x:0:0:{MARKER}\n")
    (folder / "broken.toml").write_text(f"token = {MARKER}\n")
    (folder / "well.toml").write_text("seed = 7\n")
    return folder


@pytest.mark.parametrize("name", ["secrets.toml", "passwd", "broken.toml", "well.toml"])
@pytest.mark.parametrize("by", ["path", "relative path", "link", "linked folder", "link as the spec", "extended file"])
def test_no_file_outside_of_the_project_is_read(noether_command, tiny_spec, outside, name, by, workplace):
    (workplace / "pyproject.toml").touch()
    target = outside / name
    (workplace / "a link.toml").symlink_to(target)
    (workplace / "folder").symlink_to(outside)
    ways = {
        "path": str(target),
        "relative path": f"../../../../../../../../../../..{target}",
        "link": "a link.toml",
        "linked folder": f"folder/{name}",
        "extended file": "base.toml",
    }
    Path("base.toml").write_text(tomli_w.dumps({"extends": [str(target)]}))
    spec = "a link.toml"
    if by != "link as the spec":
        Path("ci.toml").write_text(tomli_w.dumps({"extends": [ways[by]], **tiny_spec}))
        spec = "ci.toml"
    for command in (
        *(("check", spec, "--format", kind) for kind in ("text", "json", "github")),
        ("spec", "explain", "seed", spec),
        ("spec", "resolve", spec),
        ("run", spec),
    ):
        ended = noether_command(*command)
        assert ended.code == 2
        assert MARKER not in printed(ended)
        assert "--trust" in printed(ended)


def test_a_folder_that_the_user_trusts_belongs_to_the_project(noether_command, tiny_spec, outside, workplace):
    (workplace / "pyproject.toml").touch()
    Path("ci.toml").write_text(tomli_w.dumps({"extends": [str(outside / "well.toml")], **tiny_spec}))
    for trusted in (outside, outside / "well.toml"):
        assert noether_command("check", "ci.toml", "--trust", trusted).code == 0
    assert noether_command("check", "ci.toml", "--trust", outside / "other.toml").code == 2


def test_a_linked_folder_of_runs_is_no_way_out(finish, noether_command, workplace, tmp_path_factory):
    (workplace / "runs").symlink_to(tmp_path_factory.mktemp("scratch"))
    outcome = finish({"trainer.max_epochs": 1})
    assert noether_command("check", outcome.run_dir / "spec.resolved.toml").code == 0
