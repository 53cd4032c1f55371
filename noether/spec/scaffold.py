"""Write a first spec with comments that runs as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from noether.spec.literal import toml_key, toml_literal
from noether.spec.quoting import visible

_WIDTH = 44
"""Column at which comments begin behind values."""


@dataclass(frozen=True)
class Choices:
    """What the author of the new spec chose.

    Attributes:
        name: Name of the run.
        model: Kind of the model.
        epochs: How long to train.
        batch_size: Samples in one update; where there are fewer to train on, so many.
        learning_rate: Of AdamW.
    """

    name: str
    model: str = "mlp"
    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 1e-3


@dataclass(frozen=True)
class Content:
    """What a spec is about: its data, and what is predicted from what.

    Attributes:
        dataset: The table of a data set that takes a `split`, without it.
        train_samples: How many samples there are to train on.
        inputs: Properties that the model is called with.
        fields: What is predicted; the property `<field>_target` holds what it should be.
        classes: Number of classes by field where fields are classes, else empty.
        normalized: Properties to bring to mean 0 and standard deviation 1, by what has statistics of its own.
        notes: Remarks on the data for the head of the file.
    """

    dataset: Mapping[str, Any]
    train_samples: int
    inputs: Sequence[str]
    fields: Sequence[str]
    classes: Mapping[str, int] = field(default_factory=dict)
    normalized: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: Sequence[str] = ()


DIGITS = Content({"kind": "digits"}, 1437, ["image"], ["label"], classes={"label": 10})
"""The example that needs no file: which digit an image shows; the images come with scikit-learn."""


def spec_text(content: Content, choices: Choices, file: str) -> str:
    """Return the text of a spec.

    Args:
        content: What it is about.
        choices: What its author chose.
        file: How the file will be called, for the commands in its first lines.
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
    yield from (f"# {visible(note)}" for note in content.notes)
    yield ""
    yield _pair("spec", 1, "version of the format")
    yield _pair("name", choices.name, "run ids begin with it")
    yield _pair("seed", 0, "the same seed is the same run, bit for bit")


def _datasets(content: Content, choices: Choices, file: str) -> Iterator[str]:
    comments = {"path": "relative to this file", "properties": "property = array of the file"}
    yield "[datasets.train]"
    for key, value in content.dataset.items():
        yield _pair(key, value, comments.get(key))
    yield _pair("split", "train", "80 % of the samples, chosen at random by the seed")
    yield ""
    yield "[datasets.test]"
    for key, value in content.dataset.items():
        yield _pair(key, value)
    yield _pair("split", "test", "the other 20 %")


def _transforms(content: Content, choices: Choices, file: str) -> Iterator[str]:
    for number, (per, names) in enumerate(content.normalized.items()):
        if number:
            yield ""
        yield "[[transforms]]" + _comment("[[transforms]]", "for both data sets, with statistics of `train`")
        yield _pair("kind", "normalize", "metrics are mapped back to the units of the data")
        yield _pair("properties", list(names))
        if per != "component":
            yield _pair("per", per)


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
    yield _pair("max_epochs", choices.epochs)
    yield _pair("effective_batch_size", min(choices.batch_size, content.train_samples), "samples in one update")
    yield _pair("forward_properties", list(content.inputs), "what the model is called with")
    yield _pair("target_properties", [f"{name}_target" for name in content.fields])
    yield _pair(
        "field_weights",
        dict.fromkeys(content.fields, 1.0),
        f"output `{content.fields[0]}` is compared with `{content.fields[0]}_target`",
    )
    yield _pair("loss_fn", "cross-entropy" if content.classes else "mse", "others: noether plugins list --role loss")


def _callbacks(content: Content, choices: Choices, file: str) -> Iterator[str]:
    metrics = ["accuracy"] if content.classes else ["rmse", "r2"]
    yield "[[trainer.callbacks]]"
    yield _pair("kind", "offline-loss", "logged as loss/test/total")
    yield _pair("every_n_epochs", 1)
    yield _pair("dataset_key", "test")
    yield ""
    yield "[[trainer.callbacks]]"
    yield _pair("kind", "offline-metrics", f"logged as {metrics[0]}/test/{content.fields[0]}")
    yield _pair("every_n_epochs", 1)
    yield _pair("dataset_key", "test")
    yield _pair("metrics", dict.fromkeys(content.fields, metrics))
    yield ""
    yield "[[trainer.callbacks]]"
    yield _pair("kind", "checkpoint")
    yield _pair("every_n_epochs", max(1, choices.epochs // 4))
    yield ""
    yield "# Without [[trackers]], a run logs to MLflow in this folder; look at it with `mlflow ui`."


def _pair(key: str, value: Any, comment: str | None = None) -> str:
    text = f"{toml_key(key)} = {toml_literal(value)}"
    return text + _comment(text, comment) if comment else text


def _comment(text: str, comment: str) -> str:
    return " " * max(2, _WIDTH - len(text)) + f"# {visible(comment)}"
