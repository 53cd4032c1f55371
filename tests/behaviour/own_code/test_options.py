"""Parameters of the user's classes as options of a spec: given, defaulted, refused, and read again."""

import datetime
import math
from pathlib import Path

import pytest

import noether
from noether.spec.errors.problem import InvalidSpecError
from noether.spec.model import resolved_toml

ONE_UPDATE = {"trainer.max_epochs": None, "trainer.max_updates": 1}


def _given(own, finish, kind: str, **options):
    """Return what the constructor was given, after a run and after a run of its resolved spec."""
    finish({**ONE_UPDATE, "model": {"kind": kind, "optimizer": "SGD", **options}}, run_id="first")
    (first,) = own.GIVEN
    own.GIVEN.clear()
    again = noether.run("runs/first/spec.resolved.toml", run_id="again", quiet=True)
    assert again.status == "FINISHED"
    assert repr(own.GIVEN) == repr([first])
    return first


def test_parameters_may_have_the_names_of_arguments_of_losses_and_methods(own, finish):
    module = own(
        """
        class Net(Line):
            def __init__(self, input: int, target: int = 1, params: int = 2, device: str = "a", dtype: str = "b",
                         copy: int = 3, json: str = "c", schema: int = 4, validate: bool = True, name: str = "d"):
                super().__init__(input, target, params, device, dtype, copy, json, schema, validate, name)
        """
    )
    found = _given(module, finish, "own.Net", input=9, copy=7, dtype="f")
    assert found == (9, 1, 2, "a", "f", 7, "c", 4, True, "d")


@pytest.mark.parametrize("name", ["kind", "optimizer", "frozen", "model_config", "role", "arguments"])
def test_a_parameter_with_a_taken_name_is_refused_with_a_way_to_go_on(own, tiny_spec, name):
    own(f"class Net(Line):\n    def __init__(self, {name}: int = 1):\n        super().__init__()\n")
    with pytest.raises(InvalidSpecError) as caught:
        noether.load_spec(tiny_spec, set={"model": {"kind": "own.Net", "optimizer": "SGD"}})
    (problem,) = caught.value.problems
    assert (problem.code, problem.path) == ("unusable-kind", ("model", "kind"))
    assert f"'{name}'" in problem.message
    assert f"def make(…): return Net({name}=…)" in problem.hint


def test_positional_only_and_keyword_only_parameters_are_options(own, finish):
    module = own(
        """
        class Net(Line):
            def __init__(self, width, depth=2, /, rate: float = 0.5, *, act: str = "relu"):
                super().__init__(width, depth, rate, act)
        """
    )
    assert _given(module, finish, "own.Net", width=3, act="tanh") == (3, 2, 0.5, "tanh")


def test_a_class_may_give_its_parent_what_it_passes_keywords_on_to(own, finish):
    module = own(
        """
        class Net(Line):
            def __init__(self, width: int, depth: int = 2, act: str = "relu", bias: bool = True):
                super().__init__(width, depth, act, bias)

        class Small(Net):
            def __init__(self, **kwargs):
                kwargs.setdefault("bias", False)
                super().__init__(16, depth=9, **kwargs)
        """
    )
    assert _given(module, finish, "own.Small") == (16, 9, "relu", False)
    assert _given_options(module, "own.Small") == {"act", "bias"}


def _given_options(module, kind):
    from noether.config.components import ModelBaseConfig
    from noether.config.discriminated import config_class_of

    config_class = config_class_of(getattr(module, kind.rpartition(".")[2]), "model")
    return config_class.model_fields.keys() - ModelBaseConfig.model_fields.keys()


def test_a_constructor_with_some_arguments_bound_keeps_them(own, finish):
    module = own(
        """
        from functools import partialmethod

        class Net(Line):
            def __init__(self, width: int = 1, factorization: str | None = None):
                super().__init__(width, factorization)

        class Tucker(Net):
            __init__ = partialmethod(Net.__init__, factorization="tucker")
        """
    )
    assert _given(module, finish, "own.Tucker") == (1, "tucker")


def test_values_of_all_sorts_of_types_arrive_as_annotated(own, finish):
    module = own(
        """
        import dataclasses, datetime, enum, typing

        @dataclasses.dataclass(frozen=True)
        class Band:
            low: float = 0.0
            parts: list["Part"] = ()

        @dataclasses.dataclass
        class Part:
            weight: int = 1

        class Table(typing.TypedDict, total=False):
            a: int
            b: str

        class Size(typing.NamedTuple):
            height: int
            width: int = 2

        class Side(enum.Enum):
            LEFT = "left"
            RIGHT = "right"

        class Net(Line):
            def __init__(self, band: Band, table: Table, size: Size, names: set[str], codes: frozenset[int],
                         side: Side, day: datetime.date, at: datetime.datetime, span: datetime.timedelta,
                         mode: typing.Literal["a", 1],
                         by_code: dict[int, list[tuple[int, float]]], loose, either: int | str | None = None):
                names = sorted(names)
                super().__init__(band, table, size, names, codes, side, day, at, span, mode, by_code, loose, either)
        """
    )
    band, table, size, names, codes, side, *rest = _given(
        module,
        finish,
        "own.Net",
        band={"low": math.inf, "parts": [{"weight": 3}]},
        table={"a": 1},
        size=[3, 4],
        names=["b", "a"],
        codes=[1],
        side="right",
        day=datetime.date(2026, 1, 31),
        at=datetime.datetime(2026, 1, 31, 12),
        span="1:30:00",
        mode=1,
        by_code={"7": [[1, 2.0]]},
        loose=[1, "a"],
    )
    assert band == module.Band(math.inf, [module.Part(3)])
    assert (table, size, names, codes, side) == ({"a": 1}, module.Size(3, 4), ["a", "b"], {1}, module.Side.RIGHT)
    assert rest[:3] == [datetime.date(2026, 1, 31), datetime.datetime(2026, 1, 31, 12), datetime.timedelta(hours=1.5)]
    assert rest[3:] == [1, {7: [(1, 2.0)]}, [1, "a"], None]


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        ({"band": {"lo": 1.0}}, "lo"),
        ({"band": {"low": "1"}}, "low"),
        ({"table": {"a": 1, "c": 2}}, "c"),
        ({"names": ["a", 1]}, 1),
        ({"day": "yesterday"}, "day"),
    ],
)
def test_a_wrong_value_in_such_a_type_is_refused_at_its_place(own, tiny_spec, wrong, path):
    own(
        """
        import dataclasses, datetime, typing

        @dataclasses.dataclass
        class Band:
            low: float = 0.0

        class Table(typing.TypedDict):
            a: int

        class Net(Line):
            def __init__(self, band: Band = Band(), table: Table | None = None, names: set[str] = frozenset(),
                         day: datetime.date | None = None):
                super().__init__()
        """
    )
    with pytest.raises(InvalidSpecError) as caught:
        noether.load_spec(tiny_spec, set={"model": {"kind": "own.Net", "optimizer": "SGD", **wrong}})
    (problem,) = caught.value.problems
    assert problem.path[:1] == ("model",)
    assert problem.path[-1] == path


def test_defaults_that_no_spec_can_hold_stay_what_they_are(own, finish):
    module = own(
        """
        import enum

        class Side(enum.Enum):
            LEFT = object()

        class Net(Line):
            def __init__(self, missing: float = float("nan"), gaps: list[float] = (float("nan"), 1.0),
                         top: float = float("inf"), pair: Any = (1, 2), side: Side = Side.LEFT,
                         act: Any = torch.relu, none: int | None = None, wrong: int = "three"):
                super().__init__(missing, gaps, top, pair, side, act, none, wrong)
        """
    )
    missing, gaps, *others = _given(module, finish, "own.Net")
    assert math.isnan(missing)
    assert math.isnan(gaps[0])
    assert others == [math.inf, (1, 2), module.Side.LEFT, module.torch.relu, None, "three"]


def test_dataclasses_within_options_keep_such_defaults_and_compute_their_own_fields(own, finish):
    module = own(
        """
        import dataclasses

        @dataclasses.dataclass
        class Part:
            width: int = 1
            gap: float = float("nan")
            pair: Any = (1, 2)
            area: int = dataclasses.field(init=False, default=0)

            def __post_init__(self):
                self.area = self.width**2

        class Net(Line):
            def __init__(self, part: Part, parts: list[Part], named: dict[str, Part]):
                super().__init__(part, *parts, *named.values())
        """
    )
    options = {"part": {"width": 2}, "parts": [{}, {"width": 3}], "named": {"a": {"width": 4}}}
    given = _given(module, finish, "own.Net", **options)
    assert [(part.width, part.pair, part.area) for part in given] == [(w, (1, 2), w**2) for w in (2, 1, 3, 4)]
    assert all(math.isnan(part.gap) for part in given)


def test_such_defaults_of_a_config_stay_what_they_are(own, finish):
    module = own(
        """
        class NetConfig(ModelBaseConfig):
            missing: float = float("nan")
            pair: Any = (1, 2)
            act: Any = torch.relu
            wrong: int = "three"
            bounded: int = 5

        class Net(ModelBase):
            def __init__(self, model_config: NetConfig):
                super().__init__(model_config)
                it = model_config
                GIVEN.append((it.missing, it.pair, it.act, it.wrong, it.bounded))
                self.line = nn.Linear(3, 2)

            def forward(self, x):
                return {"y": self.line(x)}
        """
    )
    missing, *others = _given(module, finish, "own.Net", bounded=6)
    assert math.isnan(missing)
    assert others == [(1, 2), module.torch.relu, "three", 6]


@pytest.mark.parametrize(
    ("parameter", "reason"),
    [
        ("sizes: Mapping[str, int]", "name 'Mapping' is not defined"),
        ("act: nn.Module", "its annotation nn.Module has no form in TOML"),
        ("_hidden: int", "an option does not begin with '_'"),
    ],
)
def test_a_required_parameter_that_a_spec_cannot_give_is_said_by_check(own, tiny_spec, parameter, reason):
    own(
        "if TYPE_CHECKING:\n    from collections.abc import Mapping\n\n"
        f"class Net(Line):\n    def __init__(self, {parameter}): ...\n"
    )
    with pytest.raises(InvalidSpecError) as caught:
        noether.load_spec(tiny_spec, set={"model": {"kind": "own.Net", "optimizer": "SGD"}})
    (problem,) = caught.value.problems
    assert problem.code == "unusable-kind"
    assert f"'{parameter.partition(':')[0]}' is required" in problem.message
    assert reason in problem.message


def test_a_parameter_that_keeps_its_default_is_a_note_and_no_key(own, tiny_spec):
    own("class Net(Line):\n    def __init__(self, width: int = 1, act: nn.Module = nn.ReLU()): super().__init__()\n")
    model = {"kind": "own.Net", "optimizer": "SGD"}
    assert any(
        "'act' of own.Net keeps its default" in note
        for note in noether.load_spec(tiny_spec, set={"model": model}).notes
    )
    with pytest.raises(InvalidSpecError) as caught:
        noether.load_spec(tiny_spec, set={"model": {**model, "act": "relu"}})
    (problem,) = caught.value.problems
    assert (problem.code, problem.path) == ("unknown-key", ("model", "act"))
    assert "its annotation nn.Module has no form in TOML" in problem.message


SEEDED = """
    class Plain(Samples):
        def __init__(self, n: int = 1, *, seed: int = 0):
            GIVEN.append(seed)

    class DataConfig(DatasetBaseConfig):
        n: int = 1

    class Configured(Samples):
        def __init__(self, dataset_config: DataConfig, *, seed: int | None = None):
            GIVEN.append(seed)

    class Passed(Plain):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)

    def made(n: int = 1, seed: int = 0):
        return Plain(n, seed=seed)

    class Net(Line):
        def __init__(self, seed: int = 0):
            super().__init__(seed)

    class ModelConfig(ModelBaseConfig):
        pass

    class Whole(ModelBase):
        def __init__(self, model_config: ModelConfig, *, seed: int):
            super().__init__(model_config)
            GIVEN.append(seed)
            self.line = nn.Linear(3, 2)

        def forward(self, x):
            return {"y": self.line(x)}

    def loss(input, target, *, seed: int = 0):
        GIVEN.append(seed)
        return (input - target).square().mean()

    class Look(PeriodicCallback):
        def __init__(self, callback_config, *, seed: int = 0, **kwargs):
            super().__init__(callback_config, **kwargs)
            GIVEN.append(seed)
"""


@pytest.mark.parametrize(
    "changes",
    [
        {"datasets.train": {"kind": "own.Plain"}},
        {"datasets.train": {"kind": "own.Configured"}},
        {"datasets.train": {"kind": "own.Passed"}},
        {"datasets.train": {"kind": "own.made"}},
        {"model": {"kind": "own.Net", "optimizer": "SGD"}},
        {"model": {"kind": "own.Whole", "optimizer": "SGD"}},
        {"trainer.loss_fn": "own.loss"},
        {"trainer.callbacks": [{"kind": "own.Look", "every_n_epochs": 1}]},
    ],
    ids=str,
)
def test_a_keyword_seed_gets_the_seed_of_the_run(own, finish, changes):
    module = own(SEEDED)
    finish({**ONE_UPDATE, **changes, "seed": 7, "datasets.test": None}, run_id="first")
    assert {seed for given in module.GIVEN for seed in (given if isinstance(given, tuple) else (given,))} == {7}
    text = Path("runs/first/spec.resolved.toml").read_text()
    assert text.count("seed = 7") == 1, "a copy of the spec follows its own seed"


def test_a_seed_in_the_spec_counts_more_than_that_of_the_run(own, finish):
    module = own(SEEDED)
    finish({**ONE_UPDATE, "seed": 7, "model": {"kind": "own.Net", "optimizer": "SGD", "seed": 3}})
    assert module.GIVEN == [(3,)]


def test_a_wrong_kind_does_not_hide_mistakes_in_the_keys_of_every_kind(tiny_spec):
    with pytest.raises(InvalidSpecError) as caught:
        noether.load_spec(
            tiny_spec, set={"model": {"kind": "mlpp", "frozen": 1, "optimizer": {"kind": "SGD", "lrr": 1}}}
        )
    assert {problem.path for problem in caught.value.problems} == {
        ("model", "kind"),
        ("model", "frozen"),
        ("model", "optimizer", "lrr"),
    }


def test_a_set_is_written_in_one_order(own, tiny_spec):
    own("class Net(Line):\n    def __init__(self, names: set[str] = frozenset('hgfedcba')): super().__init__()\n")
    loaded = noether.load_spec(tiny_spec, set={"model": {"kind": "own.Net", "optimizer": "SGD"}})
    assert '"a",\n    "b",\n    "c"' in resolved_toml(loaded.spec)


OTHERS = """
    if TYPE_CHECKING:
        from collections.abc import Mapping

    class Needy(PeriodicCallback):
        def __init__(self, callback_config, threshold: float, **kwargs):
            super().__init__(callback_config, **kwargs)

    class Modest(PeriodicCallback):
        def __init__(self, callback_config, threshold: float = 1.0, **kwargs):
            super().__init__(callback_config, **kwargs)

    from noether.metrics.tracker import BaseTracker

    class Journal(BaseTracker):
        def __init__(self, url: str = "here"):
            GIVEN.append(url)

    class HalfConfig(ModelBaseConfig):
        sizes: Mapping[str, int] = {}

    class Half(ModelBase):
        def __init__(self, model_config: HalfConfig):
            super().__init__(model_config)
"""


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"trainer.callbacks": [{"kind": "own.Needy", "every_n_epochs": 1}]}, "threshold"),
        ({"trackers": ["own.Journal"]}, "url"),
        ({"model": {"kind": "own.Half", "optimizer": "SGD"}}, "'Mapping' is not defined"),
    ],
    ids=["callback", "tracker", "config"],
)
def test_a_class_that_could_not_be_built_is_said_by_check(own, tiny_spec, changes, named):
    own(OTHERS)
    with pytest.raises(InvalidSpecError) as caught:
        noether.load_spec(tiny_spec, set=changes)
    (problem,) = caught.value.problems
    assert problem.code == "unusable-kind"
    assert named in problem.message


def test_a_parameter_of_a_callback_without_a_config_is_a_note(own, tiny_spec):
    own(OTHERS)
    loaded = noether.load_spec(tiny_spec, set={"trainer.callbacks": [{"kind": "own.Modest", "every_n_epochs": 1}]})
    assert any("'threshold' of own.Modest keeps its default" in note for note in loaded.notes)


def test_keywords_that_nobody_names_are_a_note_for_a_class_and_options_of_a_function(own, tiny_spec):
    own(
        """
        class Net(Line):
            def __init__(self, width: int = 1, **others):
                super().__init__(width)

        def make(width: int = 1, **others):
            return Net(width)
        """
    )
    notes = noether.load_spec(tiny_spec, set={"model": {"kind": "own.Net", "optimizer": "SGD"}}).notes
    assert any("'others' of own.Net keeps its default" in note for note in notes)
    made = {"kind": "own.make", "optimizer": "SGD", "anything": 1}
    notes = noether.load_spec(tiny_spec, set={"model": made}).notes
    assert any(note.startswith("model.anything: not checked") for note in notes)
    with pytest.raises(InvalidSpecError):
        noether.load_spec(tiny_spec, set={"model": made | {"kind": "own.Net"}})
