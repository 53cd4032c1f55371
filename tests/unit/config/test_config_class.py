from types import ModuleType

import pytest

from noether.config.components import CallBackBaseConfig
from noether.config.discriminated import config_class_of
from noether.errors import PluginError


@pytest.mark.parametrize("name", ["Direct", "Inherited", "PassedOn", "Unannotated", "Maybe", "Variable"])
def test_the_config_is_the_class_that_the_constructor_names(annotated: ModuleType, name: str):
    assert config_class_of(getattr(annotated, name), "callback") is annotated.NoteConfig


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "Hidden",
            "'callback_config' in Hidden.__init__ cannot be evaluated: 'HiddenConfig' (name 'HiddenConfig'",
        ),
        (
            "OfAModel",
            "found ModelBaseConfig, the config of a model, expected that of a callback",
        ),
        ("NoConfig", "'callback_config' in NoConfig.__init__ is not a config class"),
    ],
)
def test_an_annotation_that_names_no_config_of_the_role_is_refused(annotated: ModuleType, name: str, message: str):
    with pytest.raises(PluginError) as caught:
        config_class_of(getattr(annotated, name), "callback")
    assert message in str(caught.value)


def test_a_callback_without_a_config_has_the_common_options(annotated: ModuleType):
    assert config_class_of(annotated.WithoutOne, "callback") is CallBackBaseConfig


def test_a_trainer_without_a_config_is_refused(annotated: ModuleType):
    with pytest.raises(PluginError) as caught:
        config_class_of(annotated.WithoutOne, "trainer")
    assert "WithoutOne" in str(caught.value)
