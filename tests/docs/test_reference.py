"""The reference names every hook, kind, option and error; that it is fresh is checked by docs/generate.py."""

import re
import tomllib
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import FunctionType

import pytest
from pydantic import BaseModel

from noether import errors
from noether.cli.package import PUBLIC, public_names
from noether.config.components import ParameterGroupConfig, SpecTable
from noether.config.discriminated import config_class_of
from noether.config.signature import SignatureConfig
from noether.kernel.hookspecs import HOOKS
from noether.kernel.registry import Registry
from noether.spec import model
from noether.spec.explain import example_of
from noether.spec.model import RunSpec


def test_every_hook_is_documented_with_its_exact_arguments(page):
    text = page["hooks.md"].text
    for hook, arguments in HOOKS.items():
        assert f"## {hook}\n\n`{hook}({', '.join(arguments)})`\n" in text


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_is_in_the_reference_of_the_api(module: str, repository: Path):
    entries = re.findall(r"^\.\. [\w:]+:: (\S+)$", "\n".join(api_pages(repository).values()), re.MULTILINE)
    entry_of = {entry.rpartition(".")[2]: entry for entry in entries}
    assert len(entry_of) == len(entries)
    assert [name for name in public_names(module) if not name.startswith("_") and name not in entry_of] == []


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_class_and_function_has_a_docstring_of_its_own(module: str):
    found = [getattr(import_module(module), name) for name in public_names(module)]
    assert [one for one in found if isinstance(one, type | FunctionType) and not one.__doc__] == []


def api_pages(repository: Path) -> dict[str, str]:
    return {path.stem: path.read_text("utf-8") for path in (repository / "docs/reference/api").glob("*.md")}


def test_every_argument_of_a_hook_is_explained(page):
    text = page["hooks.md"].text
    assert [a for a in {a for arguments in HOOKS.values() for a in arguments} if f"| `{a}` |" not in text] == []


def built_in() -> list:
    return [e for e in Registry.installed().entries() if e.is_built_in and e.role not in ("plugin", "command")]


def test_every_built_in_kind_is_listed(page):
    text = page["kinds.md"].text
    assert [entry.name for entry in built_in() if f"| `{entry.name}` |" not in text] == []


def test_every_built_in_callback_has_a_section(page):
    text = page["callbacks.md"].text
    assert [name for name in callbacks() if f"\n### {name}\n" not in text] == []


def callbacks() -> list[str]:
    return [entry.name for entry in built_in() if entry.role == "callback"]


def section_of(page, name: str):
    """Return a section of the page of callbacks as a page; whether its excerpt is valid is a test of all blocks."""
    one = page["callbacks.md"]
    return replace(one, text=re.split(r"\n##+ ", one.text.partition(f"\n### {name}\n")[2])[0])


@pytest.mark.parametrize("name", callbacks())
def test_every_built_in_callback_shows_how_it_stands_in_a_spec(page, name: str):
    shown = [tomllib.loads(block.text)["trainer"]["callbacks"] for block in section_of(page, name).blocks("toml")]
    assert any(table["kind"] == name for tables in shown for table in tables), "its docstring has no ```toml block"


def test_metrics_and_parents_of_a_callback_are_shown(page):
    assert "Logs `loss/test/total`, `loss/test/{field}_loss`." in section_of(page, "offline-loss").text
    assert "Logs no metric of its own." in section_of(page, "checkpoint").text
    best = section_of(page, "best-metric").text
    assert "Logs `loss/test/total/at_best/loss/val/total`." in best
    assert "Reads `loss/val/total`, `loss/test/total`, to be logged in the same round by callbacks before it." in best


def test_every_package_of_callbacks_has_a_title(page):
    text = page["callbacks.md"].text
    packages = {e.target.partition(":")[0].rpartition(".")[0] for e in built_in() if e.role == "callback"}
    assert len(re.findall(r"^## (?!Options)", text, re.MULTILINE)) == len(packages)


def test_every_field_of_a_spec_is_described(page):
    text = page["spec.md"].text
    tables = [RunSpec, *(found for found in vars(model).values() if is_table(found))]
    names = {name for table in tables for name in table.model_fields}
    assert [name for name in sorted(names) if f"| `{name}` |" not in text] == []


def test_the_options_of_parameter_groups_are_described(page):
    tables = page["spec.md"].text.partition("Each table of `groups`:")[2].partition("\n### ")[0]
    assert [name for name in ParameterGroupConfig.model_fields if f"| `{name}` |" not in tables] == []


def is_table(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, SpecTable)


def test_every_option_of_a_built_in_is_described(page):
    missing = []
    for entry in built_in():
        config = config_class_of(Registry.installed().load(entry.role, entry.name).target, entry.role)
        text = page["callbacks.md" if entry.role == "callback" else "spec.md"].text
        if not issubclass(config, SignatureConfig):
            missing += [(entry.name, n) for n in undescribed(config) if n != "kind"]
            missing += [(entry.name, n) for n in config.model_fields if n != "kind" and f"| `{n}` |" not in text]
    assert missing == []


def test_every_option_of_a_built_in_has_an_example():
    classes = [RunSpec, *(found for found in vars(model).values() if is_table(found))]
    for entry in built_in():
        config = config_class_of(Registry.installed().load(entry.role, entry.name).target, entry.role)
        classes += [] if issubclass(config, SignatureConfig) else [config]
    fields = {(one.__name__, name): field for one in classes for name, field in one.model_fields.items()}
    without = [place for place, field in fields.items() if place[1] != "kind" and example_of(field) is None]
    assert without == [("RunSpec", "resolved")]  # nobody writes that one


def test_type_unit_default_and_example_of_a_field_are_shown(page):
    row = next(line for line in page["spec.md"].text.splitlines() if line.startswith("| `effective_batch_size` |"))
    assert row.startswith("| `effective_batch_size` | integer, at least 1 | samples | required | `64` |")


def undescribed(config: type[BaseModel]) -> list[str]:
    return [name for name, field in config.model_fields.items() if not field.description]


@pytest.mark.parametrize("name", [name for name in vars(errors) if name.endswith("Error")])
def test_every_error_and_its_exit_code_is_listed(page, name: str):
    text, error = page["errors.md"].text, getattr(errors, name)
    assert f"| `{name}` | `{error.__base__.__name__}` | {error.exit_code} |" in text
    assert f"\n| {error.exit_code} |" in text
