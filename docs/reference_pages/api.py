"""The pages of the API reference: the public names by topic, whose docstrings Sphinx reads while it builds the site.

The names are those of `noether.cli.package.PUBLIC`; a public module without a topic is an error here.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib import import_module
from typing import Any, NamedTuple

from noether.cli.package import PUBLIC, public_names
from reference_pages.markdown import meaning


class Topic(NamedTuple):
    """One page: its title, its first sentence, and the modules whose names it has, with those below them.

    Attributes:
        title: Title of the page.
        about: First sentences of the page; the first one stands in the contents.
        modules: The modules whose public names it has, and those below them.
        returned: Classes that nobody imports, of objects that the functions return.
    """

    title: str
    about: str
    modules: tuple[str, ...]
    returned: tuple[str, ...] = ()


TOPICS = {
    "running": Topic(
        "Run from Python",
        "Start a run, load a finished one, predict with its model, and the errors that these raise. "
        "[Use a trained model](../../how-to/predict.md) and "
        "[evaluate a checkpoint](../../how-to/evaluate-a-checkpoint.md) show them at work.",
        ("noether.errors",),
        ("noether.runs.load.SavedRun", "noether.spec.load.LoadedSpec"),
    ),
    "callbacks": Topic(
        "Callbacks",
        "Base classes and built-in callbacks, with the position of training that they get. "
        "[Write a callback](../../how-to/write-a-callback.md) begins one; "
        "[callbacks](../callbacks.md) has their options.",
        ("noether.core.callbacks", "noether.training.callbacks", "noether.core.utils.training"),
    ),
    "trainers": Topic(
        "Trainers and schedules",
        "From a batch to a loss, and the learning rate of an update. "
        "[Write a trainer](../../how-to/write-a-trainer.md).",
        ("noether.training.trainers", "noether.optim.schedules"),
    ),
    "models": Topic(
        "Models and initializers",
        "Bases of models, and the weights that training begins with. "
        "[Use your own model](../../how-to/use-your-own-model-data-and-loss.md).",
        ("noether.core.models", "noether.core.initializers"),
    ),
    "data": Topic(
        "Data sets, collators and transforms",
        "From a file to a batch. [How data flow](../../explanation/data.md).",
        ("noether.data",),
    ),
    "trackers": Topic(
        "Trackers and writers",
        "Where metrics, figures and tables go. [Metrics and tracking](../../explanation/metrics-and-tracking.md).",
        ("noether.core.trackers", "noether.core.writers"),
    ),
    "checkpoints": Topic(
        "Run folders and checkpoints",
        "Paths below a run folder, and facts about metrics. [Checkpoints](../../explanation/checkpoints.md).",
        ("noether.core.providers",),
    ),
    "configs": Topic(
        "Config classes",
        "The bases of options: a plugin derives its own from the one of its role. "
        "[The spec](../spec.md) has the tables that they stand in.",
        ("noether.config", "noether.core.schemas"),
    ),
    "commands": Topic(
        "Commands",
        "For plugins that [add a command](../../how-to/add-a-command.md).",
        ("noether.cli",),
    ),
    "testing": Topic(
        "noether.testing",
        "Contracts that each plugin of a role keeps, and builders of small real objects. "
        "[Test a plugin](../../how-to/test-a-plugin.md).",
        ("noether.testing",),
    ),
}

_INTRODUCTION = """
# API reference

The classes and functions that a program or a plugin may import, with their arguments and methods, from their
docstrings. [Public names](../public-names.md) lists them by module.

| topic | has |
| --- | --- |
"""


def pages() -> dict[str, str]:
    """Return the text of each page by its path below `docs/reference`."""
    sections: dict[str, list[str]] = {slug: [] for slug in TOPICS}
    seen: set[str] = set()
    for module in PUBLIC:
        names = [name for name in public_names(module) if not name.startswith("_") and name not in seen]
        seen |= set(names)
        if names:
            sections[topic_of(module)].append(f"## {module}\n\n" + "\n\n".join(_entries(module, names)))
    for slug, topic in TOPICS.items():
        if topic.returned:
            returned = "\n\n".join(f"```{{eval-rst}}\n.. autoclass:: {path}\n```" for path in topic.returned)
            sections[slug].append(f"## Returned objects\n\n{returned}")
    texts = {
        f"api/{slug}.md": "\n\n".join([f"# {topic.title}", topic.about, *sections[slug]])
        for slug, topic in TOPICS.items()
    }
    rows = [
        f"| [{topic.title}]({slug}.md) | {topic.about.partition('. ')[0].removesuffix('.')}. |"
        for slug, topic in TOPICS.items()
    ]
    tree = "\n".join(["```{toctree}", ":hidden:", "", *TOPICS, "```"])
    texts["api/index.md"] = _INTRODUCTION.strip() + "\n" + "\n".join(rows) + f"\n\n{tree}"
    return texts


def topic_of(module: str) -> str:
    """Return the page of a public module.

    Raises:
        LookupError: if no topic has it.
    """
    if module == "noether":
        return "running"
    for slug, topic in TOPICS.items():
        if any(f"{module}.".startswith(f"{one}.") for one in topic.modules):
            return slug
    raise LookupError(f"{module} has no page of the API: add it to a topic in docs/reference_pages/api.py")


def _entries(module: str, names: list[str]) -> Iterator[str]:
    found = import_module(module)
    for name in names:
        yield f"```{{eval-rst}}\n{_entry(f'{module}.{name}', name, getattr(found, name))}\n```"


def _entry(path: str, name: str, value: Any) -> str:
    if inspect.isclass(value):
        return f".. {'autoexception' if issubclass(value, BaseException) else 'autoclass'}:: {path}"
    return (
        f".. autofunction:: {path}"
        if inspect.isfunction(value)
        else f".. py:data:: {path}\n\n   {meaning(name, value)}"
    )
