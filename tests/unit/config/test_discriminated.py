from collections.abc import Iterator
from typing import Annotated, Any, Generic, TypeVar

import pytest
import torch
from pydantic import BaseModel, ValidationError

from noether.config.base import component_of
from noether.config.components import CallBackBaseConfig, ModelBaseConfig, OptimizerBaseConfig
from noether.config.discriminated import Discriminated
from noether.errors import PluginError
from noether.kernel.entries import Entry
from noether.kernel.registry import Registry, use_registry

TOptimizer = TypeVar("TOptimizer", bound=OptimizerBaseConfig)


class Holder(BaseModel, Generic[TOptimizer]):
    one: Annotated[Any, Discriminated("optimizer")] | None = None
    many: list[Annotated[TOptimizer, Discriminated(OptimizerBaseConfig)]] | None = None


@pytest.fixture(autouse=True)
def registry() -> Iterator[Registry]:
    entries = [Entry("optimizer", name, f"torch.optim:{name}", "noether-train", "0.1.0") for name in ("AdamW", "SGD")]
    entries.append(Entry("loss", "huber", "torch.nn.functional:huber_loss", "noether-train", "0.1.0"))
    with use_registry(Registry(entries)) as registry:
        yield registry


def _errors(text: str) -> list[tuple]:
    with pytest.raises(ValidationError) as caught:
        Holder.model_validate_json(text, strict=True)
    return [(error["loc"], error["type"]) for error in caught.value.errors()]


def test_a_table_becomes_the_config_of_its_kind():
    holder = Holder.model_validate_json('{"one": {"kind": "adamw", "lr": 1}, "many": [{"kind": "SGD"}]}', strict=True)
    assert (holder.one.kind, holder.one.lr, holder.many[0].momentum) == ("AdamW", 1.0, 0.0)
    assert component_of(holder.one).target is torch.optim.AdamW


def test_a_bare_kind_is_a_table_with_that_kind():
    assert Holder(one="SGD").one == Holder(one={"kind": "SGD"}).one


def test_a_config_stays_the_object_that_it_is():
    config = Holder(one="SGD").one
    assert Holder(one=config, many=[config]).many[0] is config


@pytest.mark.parametrize("config", [CallBackBaseConfig(), ModelBaseConfig(), 5, [1]])
def test_a_config_of_another_role_is_refused(config: object):
    with pytest.raises(ValidationError) as caught:
        Holder(one=config)
    assert "expected" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        ('{"one": {"kind": "Adm"}}', [(("one", "kind"), "unknown_kind")]),
        ('{"one": "Adm"}', [(("one",), "unknown_kind")]),
        ('{"one": {"lr": 1}}', [(("one", "kind"), "missing")]),
        ('{"one": {"kind": 1}}', [(("one", "kind"), "string_type")]),
        ('{"one": {"kind": "SGD", "lr": "1"}}', [(("one", "lr"), "float_type")]),
        ('{"many": [{"kind": "SGD"}, {"kind": "SGD", "lrr": 1}]}', [(("many", 1, "lrr"), "extra_forbidden")]),
        (
            '{"one": {"kind": "SGD", "schedule": {"kind": "no"}}}',
            [(("one", "schedule", "kind"), "unknown_kind")],
        ),
    ],
)
def test_the_path_of_an_error_is_the_path_in_the_document(text: str, errors: list):
    assert _errors(text) == errors


def test_python_values_are_validated_as_python_does():
    assert Holder(one={"kind": "SGD", "lr": "0.5"}).one.lr == 0.5


def test_a_dump_holds_the_fields_of_the_config_that_is_there():
    holder = Holder(one={"kind": "SGD", "momentum": 0.5}, many=["AdamW"])
    dump = holder.model_dump(mode="json", exclude_none=True)
    assert dump["one"]["momentum"] == 0.5
    assert dump["many"][0]["betas"] == [0.9, 0.999]
    assert Holder.model_validate_json(holder.model_dump_json(exclude_none=True), strict=True) == holder


def test_a_json_schema_has_a_place_for_the_role():
    schema = Holder.model_json_schema()
    assert schema["properties"]["many"]["anyOf"][0]["items"] == {
        "type": ["object", "string"],
        "x-noether-role": "optimizer",
    }


def test_a_config_built_by_hand_finds_its_component_by_kind_or_name():
    assert component_of(OptimizerBaseConfig(kind="SGD")).target is torch.optim.SGD
    with pytest.raises(PluginError) as caught:
        component_of(CallBackBaseConfig(name="EmaCallback"))
    assert "'EmaCallback'" in str(caught.value)


def test_a_config_of_a_spec_keeps_the_component_that_the_spec_meant(registry: Registry):
    config = Holder(one="SGD").one
    with use_registry(Registry([Entry("optimizer", "SGD", "torch.optim:AdamW", "noether-plugin-x", "1")])):
        assert component_of(config).target is torch.optim.SGD


def test_configs_are_equal_whichever_registry_resolved_them(registry: Registry):
    config = Holder(one="SGD").one
    with use_registry(Registry([Entry("optimizer", "SGD", "torch.optim:SGD", "noether-plugin-x", "1")])):
        assert Holder(one="SGD").one == config
    assert Holder(one={"kind": "SGD", "lr": 9}).one != config


def test_a_config_without_a_kind_has_no_component():
    with pytest.raises(PluginError) as caught:
        component_of(OptimizerBaseConfig())
    assert "OptimizerBaseConfig" in str(caught.value)


def test_a_field_may_ask_for_more_than_the_role():
    class Special(OptimizerBaseConfig):
        pass

    class Picky(BaseModel):
        one: Annotated[Any, Discriminated(Special)]

    with pytest.raises(ValidationError) as caught:
        Picky(one={"kind": "SGD"})
    assert "'SGD'" in str(caught.value)
