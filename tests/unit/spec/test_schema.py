"""The schema of a small set of components; tests/behaviour/spec_verbs lints with it."""

import json

import pytest

from noether.kernel.entries import Entry
from noether.kernel.registry import Registry
from noether.spec.schema import schema_of


@pytest.fixture
def schema(registry: Registry) -> dict:
    found, unreadable = schema_of(registry)
    assert unreadable == []
    return found


@pytest.fixture
def definitions(schema: dict) -> dict:
    return schema["$defs"]


def test_the_schema_is_json(schema):
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert json.loads(json.dumps(schema, allow_nan=False)) == schema


def test_every_reference_leads_somewhere(schema, definitions):
    def references(value):
        if isinstance(value, dict):
            yield from ([value["$ref"]] if isinstance(value.get("$ref"), str) else [])
            for item in value.values():
                yield from references(item)
        elif isinstance(value, list):
            for item in value:
                yield from references(item)

    assert [found for found in references(schema) if found.removeprefix("#/$defs/") not in definitions] == []


def test_a_role_has_one_branch_a_kind_with_the_kind_as_constant(definitions):
    branches = [branch["$ref"] for branch in definitions["model"]["oneOf"] if "$ref" in branch]
    assert branches == ["#/$defs/model.net"]
    assert definitions["model.net"]["properties"]["kind"]["const"] == "net"
    assert definitions["model.net"]["required"] == ["kind"]
    assert definitions["model.net"]["additionalProperties"] is False


def test_a_plugin_is_offered_by_its_short_and_its_qualified_name(definitions):
    assert {"callback.grad-norm", "callback.x/grad-norm"} <= definitions.keys()


def test_a_kind_may_be_a_dotted_path(definitions):
    dotted = [branch for branch in definitions["model"]["oneOf"] if branch.get("additionalProperties") is True]
    assert [branch["properties"]["kind"]["pattern"] for branch in dotted] == ["[.:]"]


def test_nested_callbacks_refer_to_their_role(definitions):
    nested = definitions["callback.average"]["properties"]["eval_callbacks"]
    assert nested["items"] == {"$ref": "#/$defs/callback"}


def test_an_option_has_its_description_and_default(definitions):
    option = definitions["callback.note"]["properties"]["every_n_epochs"]
    assert option["description"] == "Epochs between two calls."
    assert definitions["model.net"]["properties"]["hidden"]["default"] == 8


def test_a_value_may_be_read_from_the_environment(definitions):
    assert {"$ref": "#/$defs/env"} in definitions["model.net"]["properties"]["dropout"]["anyOf"]


def test_a_kind_alone_is_enough_only_where_nothing_is_required(definitions):
    (word,) = [branch for branch in definitions["callback"]["oneOf"] if branch.get("type") == "string"]
    alone = word["anyOf"][0]["enum"]
    assert "note" in alone
    assert "stop" not in alone


def test_the_name_may_be_left_out_but_not_the_model(schema):
    assert schema["else"]["required"] == ["model", "trainer"]
    assert schema["then"]["required"] == ["extends"]


def test_a_file_that_extends_another_may_say_parts_of_components(definitions):
    *_, without_kind, _ = definitions["callback.part"]["oneOf"]
    assert "required" not in without_kind
    assert {"stop_at", "every_n_epochs"} <= without_kind["properties"].keys()
    assert definitions["callback.part.stop"]["required"] == ["kind"]


def test_a_kind_says_what_it_is_and_where_it_is_from(definitions):
    kind = definitions["callback.stop"]["properties"]["kind"]
    summary, _, origin = kind["description"].rpartition(" From ")
    assert summary == definitions["callback.stop"]["description"]
    assert origin


def test_no_option_is_null_as_toml_has_none(schema):
    assert '"null"' not in json.dumps(schema)


def test_a_kind_that_cannot_be_imported_takes_any_option_and_is_reported(registry):
    broken = Entry("callback", "broken", "no_such_module:Thing", "noether-plugin-x", "2.1")
    found, unreadable = schema_of(Registry([*registry.entries(), broken]))
    assert {(kind.role, kind.kind) for kind in unreadable} == {("callback", "broken"), ("callback", "x/broken")}
    assert "no_such_module" in unreadable[0].reason
    assert found["$defs"]["callback.broken"]["additionalProperties"] is True
