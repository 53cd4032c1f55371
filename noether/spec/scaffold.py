"""First specs with comments, made from the arrays of a data file; they run as written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from noether.errors import UsageError
from noether.kernel.names import TARGET, did_you_mean
from noether.spec.errors.words import toml_key, toml_literal, visible

_WIDTH = 44
"""Column at which comments begin behind values."""


@dataclass(frozen=True)
class Choices:
    """Choices of the author of a new spec.

    Attributes:
        name: Name of the run.
        model: Kind of the model.
        epochs: Epochs to train; None for a number by the size of the data.
        batch_size: Samples in one update, at most the samples to train on; None for a number by the size of the data.
        learning_rate: Learning rate of AdamW.
    """

    name: str
    model: str = "mlp"
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float = 1e-3


@dataclass(frozen=True)
class Content:
    """Data of a new spec, with its inputs and targets.

    Attributes:
        dataset: The table of a data set that takes a `split`, without it.
        train_samples: Number of samples to train on.
        inputs: Properties that the model is called with.
        fields: Fields that the model predicts; the property `<field>_target` holds the target.
        classes: Number of classes by field for classification, else empty.
        normalized: Properties to normalise, by the part that has its own statistics; those of `log` by logarithm.
        notes: Remarks on the data for the head of the file.
        has_validation: Split off a part on which the best checkpoint is chosen, beside `train` and `test`.
        comments: Comments behind keys of the data set.
        rows: What was found in the data, as rows of a table.
    """

    dataset: Mapping[str, Any]
    train_samples: int
    inputs: Sequence[str]
    fields: Sequence[str]
    classes: Mapping[str, int] = field(default_factory=dict)
    normalized: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    has_validation: bool = False
    comments: Mapping[str, str] = field(default_factory=dict)
    rows: Sequence[Mapping[str, str]] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of the data sets."""
        return ("train", "validation", "test") if self.has_validation else ("train", "test")

    @property
    def watched(self) -> str:
        """The data set that is evaluated during training."""
        return self.keys[1]


DIGITS = Content({"kind": "digits"}, 1437, ["image"], ["label"], classes={"label": 10})
"""Example without a file: classify images of digits, which come with scikit-learn."""


def spec_text(content: Content, choices: Choices, file: str) -> str:
    """Return the text of a spec.

    Args:
        content: Its data.
        choices: The choices of its author.
        file: Name of the file, for the commands in its first lines.
    """
    parts = (_head, _datasets, _transforms, _model, _trainer, _callbacks)
    texts = ("\n".join(part(content, choices, file)) for part in parts)
    return "\n\n".join(filter(None, texts)) + "\n"


def _head(content: Content, choices: Choices, file: str) -> Iterator[str]:
    yield f"#   noether check {visible(file)}"
    yield f"#   noether run {visible(file)}"
    yield f"#   noether spec explain trainer.max_epochs {visible(file)}"
    if content.notes:
        yield "#"
    yield from (f"# {visible(note)}".rstrip() for note in content.notes)
    yield ""
    yield _pair("spec", 1, "version of the format")
    yield _pair("name", choices.name, "run ids begin with it")
    yield _pair("seed", 0, "the same seed is the same run, bit for bit")


_COMMENTS = {"path": "relative to this file", "properties": "property = array of the file"}


def _datasets(content: Content, choices: Choices, file: str) -> Iterator[str]:
    fraction = HELD_OUT if content.has_validation else _TEST_FRACTION
    percent = f"{fraction:.0%}".replace("%", " %")
    train = f"{1 - fraction * (len(content.keys) - 1):.0%}".replace("%", " %")
    said = {
        "train": f"{train} of the samples, chosen at random by the seed",
        "validation": f"{percent}, on which the best checkpoint is chosen",
        "test": f"{percent}, on which nothing is chosen" if content.has_validation else f"the other {percent}",
    }
    for key in content.keys:
        if key != "train":
            yield ""
        yield f"[datasets.{key}]"
        for name, value in content.dataset.items():
            yield _pair(name, value, (_COMMENTS | dict(content.comments)).get(name) if key == "train" else None)
        yield _pair("split", key, said[key])
        if content.has_validation:
            yield _pair("validation_fraction", HELD_OUT)
            yield _pair("test_fraction", HELD_OUT)


def _transforms(content: Content, choices: Choices, file: str) -> Iterator[str]:
    for number, (per, names) in enumerate(content.normalized.items()):
        if number:
            yield ""
        which = "all" if content.has_validation else "both"
        yield "[[transforms]]" + _comment("[[transforms]]", f"for {which} data sets, with statistics of `train`")
        yield _pair("kind", "normalize", "metrics are mapped back to the units of the data")
        yield _pair("properties", list(names))
        if per != "component":
            yield _pair(*(("method", per, "numbers over powers of ten") if per == "log" else ("per", per)))


def _model(content: Content, choices: Choices, file: str) -> Iterator[str]:
    yield "[model]"
    yield _pair("kind", choices.model, f"its options: noether plugins info {choices.model}")
    if content.classes:
        yield _pair("out_features", dict(content.classes), "one output a class; other sizes come from the data")
    yield ""
    yield "[model.optimizer]"
    yield _pair("kind", "AdamW", "any optimizer of torch.optim, with all its options")
    yield _pair("lr", choices.learning_rate)
    yield 'schedule = { kind = "linear-warmup-cosine-decay", warmup_percent = 5 }'


def _trainer(content: Content, choices: Choices, file: str) -> Iterator[str]:
    yield "[trainer]"
    yield _pair("kind", "weighted-loss")
    yield _pair("max_epochs", _epochs(content, choices))
    yield _pair("effective_batch_size", _batch_size(content, choices), "samples in one update")
    yield _pair("forward_properties", list(content.inputs), "arguments of the model")
    yield _pair("target_properties", [f"{name}_target" for name in content.fields])
    comment = "output `{0}` is compared with `{0}_target`".format(content.fields[0])
    yield _pair("field_weights", dict.fromkeys(content.fields, 1.0), comment)
    yield _pair("loss_fn", "cross-entropy" if content.classes else "mse", "others: noether plugins list --role loss")


def _batch_size(content: Content, choices: Choices) -> int:
    size = choices.batch_size or (64 if content.train_samples >= 640 else 32 if content.train_samples >= 160 else 16)
    return min(size, content.train_samples)


def _epochs(content: Content, choices: Choices) -> int:
    """Return the epochs of about 2,000 updates: at least 20, at most 200."""
    if choices.epochs is not None or not content.has_validation:
        return choices.epochs or 20
    return min(200, max(20, round(2000 / max(1, content.train_samples // _batch_size(content, choices)))))


def _callbacks(content: Content, choices: Choices, file: str) -> Iterator[str]:
    metrics = ["accuracy"] if content.classes else ["rmse", "r2"]
    key, epochs = content.watched, _epochs(content, choices)
    yield "[[trainer.callbacks]]"
    yield _pair("kind", "offline-loss", f"logged as loss/{key}/total")
    yield _pair("every_n_epochs", 1)
    yield _pair("dataset_key", key)
    yield ""
    yield "[[trainer.callbacks]]"
    units = "" if content.classes else ", in the units of the data"
    yield _pair("kind", "offline-metrics", f"logged as {metrics[0]}/{key}/{content.fields[0]}{units}")
    yield _pair("every_n_epochs", 1)
    yield _pair("dataset_key", key)
    yield _pair("metrics", dict.fromkeys(content.fields, metrics))
    yield ""
    if content.has_validation:
        yield from _best_and_test(content, metrics)
    yield "[[trainer.callbacks]]"
    yield _pair("kind", "checkpoint")
    yield _pair("every_n_epochs", max(1, epochs // 4))
    yield ""
    yield "[[trackers]]"
    yield _pair("kind", "mlflow", "in this folder; look at it with `mlflow ui`")
    yield _pair("log_model", True, "the trained model, for mlflow.pyfunc.load_model")
    yield _pair("log_system_metrics", True, "use of processor, memory, disk and GPU")


BEST = "best_model.loss.validation.total"
"""Name of the best checkpoint of a spec with a part for validation."""


def _best_and_test(content: Content, metrics: Sequence[str]) -> Iterator[str]:
    yield "[[trainer.callbacks]]"
    yield _pair("kind", "best-checkpoint", f"kept as {BEST}")
    yield _pair("every_n_epochs", 1)
    yield _pair("metric_key", "loss/validation/total")
    yield ""
    yield "[[trainer.callbacks]]"
    yield _pair("kind", "offline-metrics", f"logged as {metrics[0]}/test/{content.fields[0]}")
    yield _pair("every_n_epochs", 1)
    yield _pair("dataset_key", "test")
    yield _pair("metrics", dict.fromkeys(content.fields, metrics))
    yield ""


def _pair(key: str, value: Any, comment: str | None = None) -> str:
    text = f"{toml_key(key)} = {toml_literal(value)}"
    if comment and len(text) > 2 * _WIDTH:
        return f"# {visible(comment)}\n{text}"
    return text + _comment(text, comment) if comment else text


def _comment(text: str, comment: str) -> str:
    return " " * max(2, _WIDTH - len(text)) + f"# {visible(comment)}"


_LEAST_SAMPLES = 5
_TEST_FRACTION = 0.2
HELD_OUT = 0.15
"""Share of the samples for validation, and for test, in a new spec."""
_LEAST_FOR_VALIDATION = 20


def train_samples(file: str, samples: int) -> tuple[int, bool]:
    """Return the number of samples to train on, and True if some are split off for validation.

    Raises:
        UsageError: if there are too few.
    """
    if samples < _LEAST_SAMPLES:
        raise UsageError(
            f"too few samples to train and to test: found {samples} in {file}, expected at least {_LEAST_SAMPLES}"
        )
    has_validation = samples >= _LEAST_FOR_VALIDATION
    return samples - round((2 * HELD_OUT if has_validation else _TEST_FRACTION) * samples), has_validation


@dataclass(frozen=True)
class Property:
    """An array of a data file.

    Attributes:
        shape: Shape of its part for one sample; `()` for one number.
        type: `float`, `int` or `bool`.
        classes: Largest value plus one, if it holds one integer from 0 on per sample.
        values: Its range in words.
    """

    shape: tuple[int, ...]
    type: type[float] | type[int] | type[bool]
    classes: int | None = None
    values: str = ""

    def __str__(self) -> str:
        dimensions = ", ".join(map(str, (*self.shape, "")) if len(self.shape) == 1 else map(str, self.shape))
        return f"{self.type.__name__}, shape ({dimensions.strip()})"


def content_of_file(
    file: str,
    path: str,
    samples: int,
    properties: Mapping[str, Property],
    inputs: Sequence[str] = (),
    targets: Sequence[str] = (),
    kind: str = "file",
) -> Content:
    """Return the content of a spec for a file of arrays.

    Args:
        file: The file, for messages and comments.
        path: The file as the spec names it.
        samples: Number of its samples.
        properties: Its arrays by name.
        inputs: Arrays to predict from; by default every array of real numbers that is not a target.
        targets: Arrays to predict; by default those whose names end in `_target`.
        kind: Kind of the data set.

    Raises:
        UsageError: if the file has no array of a name, no target or no input.
    """
    trained, has_validation = train_samples(file, samples)
    inputs, targets = _chosen(file, properties, inputs, targets)
    fields = {name: name.removesuffix(TARGET) or name for name in targets}
    classes = _classes(properties, fields)
    return Content(
        dataset=_dataset(kind, path, properties, inputs, fields),
        train_samples=trained,
        has_validation=has_validation,
        inputs=inputs,
        fields=list(fields.values()),
        classes=classes,
        normalized=_normalized(properties, inputs, {} if classes else fields),
        notes=[f"{file} holds {samples} samples of", *_described(properties, inputs, targets)],
        rows=[
            {"array": name, "type": str(found), "values": found.values, "used as": _role(name, inputs, targets)}
            for name, found in properties.items()
        ],
    )


def _chosen(
    file: str, properties: Mapping[str, Property], inputs: Sequence[str], targets: Sequence[str]
) -> tuple[Sequence[str], Sequence[str]]:
    """Return the arrays to predict from and those to predict: the named ones, else those that fit."""
    check_names(file, properties, (*inputs, *targets))
    targets = targets or [name for name in properties if name.endswith(TARGET)]
    if not targets:
        raise UsageError(
            f"no array of {file} ends in {TARGET}: found {_listed(properties)}", hint="name one with --targets"
        )
    inputs = inputs or [name for name in properties if name not in targets and properties[name].type is float]
    if not inputs:
        raise UsageError(f"{file} has no real numbers to predict from: found {_listed(properties)}")
    for name in inputs:
        if properties[name].type is not float:
            raise UsageError(f"wrong type of the input {name}: found {properties[name]}, expected real numbers")
    return inputs, targets


def check_names(file: str, properties: Mapping[str, object], names: Iterable[str]) -> None:
    """Refuse names that a file does not have.

    Raises:
        UsageError: if there is one; names the nearest.
    """
    for name in names:
        if name not in properties:
            raise UsageError(
                f"{file} has no {name!r}.{did_you_mean(name, properties)}", hint=f"it has {_listed(properties)}"
            )


def _classes(properties: Mapping[str, Property], fields: Mapping[str, str]) -> dict[str, int]:
    """Return the number of classes by field; none if the targets are real numbers."""
    kinds = {name: properties[name] for name in fields}
    if all(found.type is float for found in kinds.values()):
        return {}
    for name, found in kinds.items():
        if found.type is not float and found.classes is None:
            raise UsageError(
                f"wrong type of the target {name}: found {found}, "
                "expected real numbers, or one integer from 0 on per sample",
                hint="convert it, or name other targets with --targets",
            )
    if any(found.type is float for found in kinds.values()):
        raise UsageError(
            f"different types of targets: found classes and real numbers in {', '.join(kinds)}, expected one type",
            hint=f"name targets of one type with --targets, such as --targets {next(iter(kinds))}",
        )
    return {fields[name]: found.classes for name, found in kinds.items() if found.classes is not None}


def _dataset(
    kind: str, path: str, properties: Mapping[str, Property], inputs: Sequence[str], fields: Mapping[str, str]
) -> dict[str, object]:
    used = {**{name: name for name in inputs}, **{f"{new}{TARGET}": name for name, new in fields.items()}}
    as_it_is = {name: name for name in properties}
    return {"kind": kind, "path": path} | ({} if used == as_it_is else {"properties": used})


def _normalized(
    properties: Mapping[str, Property], inputs: Iterable[str], fields: Mapping[str, str]
) -> dict[str, list[str]]:
    """Return the properties to normalise, by the part with its own statistics: component, or channel of an image."""
    names = {**{name: name for name in inputs}, **{name: f"{field}{TARGET}" for name, field in fields.items()}}
    result: dict[str, list[str]] = {}
    for name, renamed in names.items():
        per = "channel" if len(properties[name].shape) > 2 else "component"
        result.setdefault(per, []).append(renamed)
    return result


def _described(properties: Mapping[str, Property], inputs: Sequence[str], targets: Sequence[str]) -> list[str]:
    width = max(map(len, properties))
    return [f"  {name.ljust(width)}  {_role(name, inputs, targets)}: {found}" for name, found in properties.items()]


def _role(name: str, inputs: Sequence[str], targets: Sequence[str]) -> str:
    return "target" if name in targets else "input" if name in inputs else "not used"


def _listed(properties: Mapping[str, object]) -> str:
    return ", ".join(f"{name} ({found})" for name, found in properties.items())
