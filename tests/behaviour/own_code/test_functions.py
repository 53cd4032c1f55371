"""Functions of the user as kinds: called with their options, their results checked; torch's own are never called."""

import sys

import pytest

import noether
from noether.errors import SpecError
from noether.spec.errors.problem import InvalidSpecError

ONE_UPDATE = {"trainer.max_epochs": None, "trainer.max_updates": 1}

FACTORIES = """
    from functools import lru_cache, partial
    from noether.data.transforms import Transform

    def net(width: int = 3, *, act: str = "relu", **kwargs) -> nn.Module:
        GIVEN.append((width, act, kwargs))
        return nn.Linear(3, 2)

    wide = partial(net, 64)
    cached = lru_cache(net)

    class Whole(ModelBase):
        def __init__(self):
            super().__init__()
            self.line = nn.Linear(3, 2)

        def forward(self, x):
            return {"y": self.line(x)}

        @classmethod
        def preset(cls, name: str):
            GIVEN.append(name)
            return cls()

    def samples(n: int = 16, seed: int = 0):
        GIVEN.append((n, seed))
        return [{"x": torch.zeros(3), "y_target": torch.zeros(2)} for _ in range(n)]

    def sgd(params, lr: float = 0.1, scale: float = 1.0):
        GIVEN.append((lr, scale))
        return torch.optim.SGD(params, lr=lr * scale)

    class Twice(Transform):
        keeps_properties = True

        def __call__(self, sample):
            return sample

    def transform(factor: float = 2.0):
        GIVEN.append(factor)
        return Twice()

    def number(width: int = 3):
        return width

    def counted(width: int = 3) -> int:
        return width

    instance = nn.Linear(3, 2)
    load = torch.load
    loaded = partial(torch.load, "x")
"""


@pytest.mark.parametrize(
    ("model", "given"),
    [
        ({"kind": "own.net", "width": 5, "num_classes": 4}, (5, "relu", {"num_classes": 4})),
        ({"kind": "own.wide", "act": "tanh"}, (64, "tanh", {})),
        ({"kind": "own.cached"}, (3, "relu", {})),
        ({"kind": "own.Whole.preset", "name": "base"}, "base"),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else "",
)
def test_a_function_that_returns_a_model_is_a_kind_of_one(own, finish, model, given):
    module = own(FACTORIES)
    finish({**ONE_UPDATE, "model": {**model, "optimizer": "SGD"}}, run_id="first")
    assert [given] == module.GIVEN
    assert noether.load_run("first").model is not None, "the resolved spec builds it again"


def test_data_sets_optimizers_and_transforms_may_be_built_by_functions(own, finish):
    module = own(FACTORIES)
    optimizer = {"kind": "own.sgd", "scale": 0.5}
    changes = {
        "seed": 4,
        "datasets": {"train": {"kind": "own.samples", "n": 8}},
        "model.optimizer": optimizer,
        "transforms": [{"kind": "own.transform", "factor": 3.0}],
    }
    finish({**ONE_UPDATE, **changes})
    assert module.GIVEN == [(8, 4), 3.0, (0.1, 0.5)]


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("torch.load", "function load of torch"),
        ("torch.hub.load", "function load of torch"),
        ("torch.hub.load_state_dict_from_url", "function load_state_dict_from_url of torch"),
        ("own.load", "function load of torch"),
        ("own.loaded", "of torch"),
        ("own.Whole.load_state_dict", "function Module.load_state_dict of torch"),
        ("noether.load_spec", "function load_spec of noether"),
        ("own.counted", "returns the class int"),
        ("own.instance", "an object of Linear"),
    ],
)
@pytest.mark.parametrize("where", ["model", "datasets.train", "model.optimizer"])
def test_functions_of_torch_and_what_builds_something_else_are_refused_without_a_call(
    own, tiny_spec, where, kind, found
):
    own(FACTORIES)
    model = {"optimizer": "SGD"} if where == "model" else {}
    with pytest.raises(InvalidSpecError) as caught:
        noether.load_spec(tiny_spec, set={where: {"kind": kind, **model}})
    problem = caught.value.problems[0]
    assert problem.code == "wrong-role"
    assert found in problem.message


def test_another_result_is_refused_before_training(own, tiny_spec):
    own(FACTORIES)
    with pytest.raises(SpecError) as caught:
        noether.run(tiny_spec, set={"model": {"kind": "own.number", "optimizer": "SGD"}}, quiet=True)
    assert "own.number" in caught.value.message
    assert "returned an object of int, expected an object of torch.nn.Module" in caught.value.message


def test_an_optimizer_function_has_to_return_one(own, tiny_spec):
    own(FACTORIES + "\n    def nothing(params, lr: float = 1.0):\n        pass\n")
    with pytest.raises(SpecError) as caught:
        noether.run(tiny_spec, set={"model.optimizer": "own.nothing"}, quiet=True)
    assert "returned None, expected an object of torch.optim.Optimizer" in caught.value.message


def test_a_function_of_an_installed_package_needs_trust(finish, tiny_spec, tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("site")
    (folder / "zoo_of_models.py").write_text(
        "from torch import nn\n\n\ndef create_model(name, **kwargs):\n    return nn.Linear(kwargs['inputs'], 2)\n"
    )
    monkeypatch.syspath_prepend(folder)
    changes = {
        **ONE_UPDATE,
        "model": {"kind": "zoo_of_models.create_model", "name": "a", "inputs": 3, "optimizer": "SGD"},
    }
    with pytest.raises(InvalidSpecError) as caught:
        noether.load_spec(tiny_spec, set=changes)
    assert caught.value.problems[0].code == "not-trusted"
    finish(changes, trust=["zoo_of_models"])
    sys.modules.pop("zoo_of_models")


FORWARDS = {
    "positional only": ("self, x, /", "self.line(x)", ["x"]),
    "under another name": ("self, points, /", "self.line(points)", ["x"]),
    "with a default": ("self, x, scale=1.0, /", "self.line(x) * scale", ["x"]),
    "keyword only": ("self, *, x", "self.line(x)", ["x"]),
    "both": ("self, y_target, /, *, x", "self.line(x) + 0 * y_target", ["x", "y_target"]),
    "any keyword behind": ("self, x, /, **others", "self.line(x) + 0 * others['y_target']", ["y_target", "x"]),
}


@pytest.mark.parametrize(("arguments", "value", "properties"), FORWARDS.values(), ids=FORWARDS)
@pytest.mark.parametrize("base", ["Line", "Whole"])
def test_a_forward_gets_its_properties_however_it_takes_them(own, finish, base, arguments, value, properties):
    own(FACTORIES + f"\n    class Net({base}):\n        def forward({arguments}):\n            return {value}\n")
    if (base, properties) == ("Whole", ["x"]) and "points" in arguments:
        pytest.skip("a ModelBase names its properties")
    changes = {"model": {"kind": "own.Net", "optimizer": "SGD"}, "trainer.forward_properties": properties}
    finish({**ONE_UPDATE, **changes})


def test_a_wrapped_forward_is_called_as_the_function_in_it(own, finish):
    own(
        """
        from functools import wraps

        def logged(function):
            @wraps(function)
            def called(*args, **kwargs):
                GIVEN.append(len(args))
                return function(*args, **kwargs)
            return called

        class Net(Line):
            @logged
            def forward(self, x, /):
                return self.line(x)
        """
    )
    finish({**ONE_UPDATE, "model": {"kind": "own.Net", "optimizer": "SGD"}})


def test_properties_in_another_order_than_the_arguments_are_refused(own, tiny_spec):
    own("class Net(Line):\n    def forward(self, points, y_target):\n        return self.line(points)\n")
    changes = {"model": {"kind": "own.Net", "optimizer": "SGD"}, "trainer.forward_properties": ["y_target", "x"]}
    with pytest.raises(SpecError) as caught:
        noether.run(tiny_spec, set=changes, quiet=True)
    assert "'y_target' would be passed as 'points'" in caught.value.message
