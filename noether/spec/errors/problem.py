"""Problems of a spec: codes, the error that shows all problems at once, and their form for programs."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

from noether.config.secrets import mask, withheld
from noether.errors import NoetherError, SpecError
from noether.spec.errors.words import toml_path, visible
from noether.spec.locate import Place, TomlPath


class Code(NamedTuple):
    """The documentation of a code.

    Attributes:
        meaning: The mistake, in one line.
        example: A part of a spec, or a command, that has the problem.
    """

    meaning: str
    example: str


CODES: dict[str, Code] = {
    # Files and arguments
    "unreadable-file": Code(
        "A spec file is missing, not a regular file, not UTF-8, or may not be read.", "noether check missing.toml"
    ),
    "invalid-toml": Code("The text is not valid TOML.", "seed = "),
    "too-large": Code(
        "A spec, or all files of a spec together, exceeds a limit of size, depth or number.",
        "model.x = [[[[…]]]]  # 33 deep",
    ),
    "unsupported-version": Code("The file is in a later format of specs.", "spec = 2"),
    "unsupported-value": Code("A Python value or an integer has no counterpart in TOML.", "seed = 9223372036854775808"),
    "invalid-extends": Code("`extends` is not a list of files, or a file extends itself.", 'extends = "base.toml"'),
    "outside-project": Code(
        "A spec, or a file that it extends, is outside of the project of the spec, perhaps by a link.",
        'extends = ["/etc/passwd"]',
    ),
    "invalid-override": Code("An argument of `-s` or `--unset` is malformed.", "-s trainer.max_epochs"),
    "unknown-path": Code(
        "An override, `--unset` or `remove = true` names something that the spec does not have.",
        "-s 'trainer.callbacks[emma].every_n_epochs=2'",
    ),
    # Keys and values
    "unknown-key": Code("A table has a key that its class does not have.", "hiden = [256]"),
    "missing-key": Code("A key without a default is missing.", "[model]  # without kind"),
    "wrong-type": Code("A value has another type than its field.", 'seed = "1"'),
    "wrong-value": Code("A value has the right type, and the field or its component refuses it.", 'precision = "fp31"'),
    "out-of-range": Code("A number, text or list is beyond a bound of its field.", "max_epochs = -1"),
    "not-a-number": Code("A value is nan.", "lr = nan"),
    "conflicting-keys": Code("Keys exclude each other.", "max_epochs = 3\nmax_updates = 100"),
    # Kinds
    "unknown-kind": Code("A kind is not registered for its role, or a dotted path does not exist.", 'kind = "mlpp"'),
    "ambiguous-kind": Code("Two plugins register the same short name.", 'kind = "grad-norm"  # in two plugins'),
    "wrong-role": Code("A kind names a component of another role.", 'kind = "torch.nn.Linear"  # of a loss'),
    "not-trusted": Code("A dotted path leads to code that a spec may not import.", 'kind = "os.system"'),
    "unusable-kind": Code(
        "A component was found and cannot be used: it fails to import, or its config is wrong.",
        'kind = "my_project.broken.Model"',
    ),
    "other-version": Code(
        "A kind or run plugin is of a distribution that needs another version of Noether.",
        'kind = "grad-norm"  # of a plugin with noether-train>=7',
    ),
    # The environment
    "invalid-reference": Code("A reference to the environment is malformed.", 'root = { env = "DATA", defualt = "." }'),
    "unset-variable": Code("An environment variable without a default is not set.", 'root = { env = "DATA" }'),
    "written-password": Code(
        "A secret option is written in the spec, or an address in it holds a password.",
        'tracking_uri = "https://me:secret@host"',
    ),
    # Between tables
    "missing-interval": Code("A periodic callback has no interval.", '[[trainer.callbacks]]\nkind = "checkpoint"'),
    "invalid-id": Code("An id has other characters than allowed, or is too long.", 'id = "Val"'),
    "duplicate-id": Code("Two callbacks of a list have the same id.", 'id = "val"  # twice'),
    "unknown-dataset": Code("A callback names a data set that the spec does not have.", 'dataset_key = "tset"'),
    "missing-training-set": Code("The spec trains and has no `[datasets.train]`.", "[datasets.test]  # alone"),
    "unknown-property": Code("A property is used that the data set does not have.", 'forward_properties = ["pointss"]'),
    # Meaning
    "never-fires": Code("An interval is longer than the run.", "every_n_epochs = 50  # max_epochs = 30"),
    "unlogged-metric": Code(
        "A metric is read or expected, and nothing logs it.", '[expect]\n"loss/tset/total" = { max = 1 }'
    ),
    "duplicate-metric": Code(
        "Two callbacks log one metric, so that its readers get the value of the last one.",
        '[[trainer.callbacks]]  # "offline-loss" of one data set, twice',
    ),
    "late-metric": Code(
        "A metric is logged after a callback reads it, or at other updates.",
        '[[trainer.callbacks]]  # "best-metric" before "offline-loss"',
    ),
    "unknown-direction": Code(
        "A metric is compared that is neither better higher nor better lower.", 'metric_key = "my/metric"'
    ),
    # noether check --deep
    "build-failed": Code("The run cannot be built.", "noether check --deep SPEC"),
    "empty-dataset": Code("A data set of a callback has no samples.", "noether check --deep SPEC"),
    "forward-failed": Code("One batch does not pass the model or the loss.", "noether check --deep SPEC"),
    "summed-loss": Code(
        "The loss is a sum over samples, and accumulation steps are put together as means.", "noether check --deep SPEC"
    ),
    "evaluation-failed": Code(
        "A callback fails on a batch of its data set, on its results, or when its interval fires.",
        "noether check --deep SPEC",
    ),
    "update-failed": Code("The first two updates fail.", "noether check --deep SPEC"),
    "save-failed": Code("The checkpoint of the trial run is not valid.", "noether check --deep SPEC"),
    # Everything else
    "failed": Code("An error that is not about a place in a spec.", "noether check SPEC -p missing-plugin"),
}
"""Every code, with its documentation. A `Problem` with another code cannot be made."""


_CONTEXT = 40  # characters shown before and behind the marked part of a long line
_MARKED = 60  # characters shown of the marked part
_LINE = 120  # characters of a line that is shown whole
_TAB = "    "
_RED, _BLUE, _BOLD, _PLAIN = "\x1b[1;31m", "\x1b[1;34m", "\x1b[1m", "\x1b[0m"


MAX_PROBLEMS = 100
"""Problems that are shown; further ones are only counted."""
_LONGEST = 5000  # characters of a message


@dataclass(frozen=True)
class Problem:
    """A mistake at one place of a document.

    Attributes:
        code: Its stable name, a key of `noether.spec.errors.problem.CODES`.
        path: Keys and indices from the root of the document.
        message: The mistake: found and expected.
        hint: The remedy: text to type or change.
        places: Places of the mistake, the main one first; `noether.spec.read.layering.located` finds them.
        at: Paths to point at instead of `path`, the main one first; for a problem between several values.
        on_key: True to point at keys rather than values.
        expected: The expected value in words, which say nothing of the found one; empty if only the message knows it.
        meant: True if an unknown key is near to a known one, or belongs elsewhere.
        labels: Notes at the first and at the other paths of `at`; by default that they do not fit together.

    Raises:
        ValueError: if the code is not registered.
    """

    code: str
    path: TomlPath
    message: str
    hint: str | None = None
    places: tuple[Place, ...] = ()
    at: tuple[TomlPath, ...] = ()
    on_key: bool = False
    labels: tuple[str, str] | None = None
    expected: str = ""
    meant: bool = False

    def __post_init__(self) -> None:
        if self.code not in CODES:
            raise ValueError(f"unregistered code of a problem: found {self.code!r}, expected a key of CODES")


class Finding(NamedTuple):
    """A problem with the meaning of a valid spec.

    Attributes:
        problem: The problem.
        certain: True if it is certainly wrong; False if a component does not declare what it logs.
    """

    problem: Problem
    certain: bool = True


class InvalidSpecError(SpecError):
    """A spec with one or more problems; the message shows all of them, sorted by file and position.

    Args:
        problems: The problems; at least one.
        origin: The file, or `the spec`.
        more: Number of further problems that are not shown.
    """

    def __init__(self, problems: Iterable[Problem], *, origin: str, more: int = 0) -> None:
        masked = (
            replace(problem, message=_fit(problem.message), hint=_fit(problem.hint) if problem.hint else None)
            for problem in problems
        )
        self.problems = tuple(sorted(masked, key=_order))
        self.origin = origin
        self.more = more
        super().__init__(self.rendered(), code=self.problems[0].code)

    def rendered(self, *, color: bool = False) -> str:
        """Return all problems as text, with a count at the end."""
        number = len(self.problems) + self.more
        count = f"{number} problem{'s' * (number != 1)} in {visible(self.origin)}"
        if self.more:
            count += f"; the first {len(self.problems)} are shown"
        blocks = [render(problem, self.origin, color=color) for problem in self.problems]
        return "\n\n".join([*blocks, count])


def problem_at(place: Place | None, code: str, path: TomlPath, message: str, hint: str | None) -> Problem:
    """Return a problem at one known place, or at none."""
    return Problem(code, path, message, hint, (place,) if place else ())


def _fit(text: str) -> str:
    """Return text without secrets, values of the environment and control characters, cut if it is very long."""
    text = withheld(text)
    cut = text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
    return "\n".join(map(visible, cut.split("\n")))


_Order: TypeAlias = tuple[bool, bool, str, int, str, int, int, list[tuple[int, int, str]]]


def _order(problem: Problem) -> _Order:
    """Sort by the spec's own file, then the files that it extends, then arguments, then problems without a place."""
    path = [(0, part, "") if isinstance(part, int) else (1, 0, part) for part in problem.path]
    if not problem.places:
        return True, True, "", 0, "", 0, 0, path
    place = problem.places[0]
    length = 0 if place.is_file else len(place.origin)  # argument 2 comes before argument 10
    return False, not place.is_file, place.via or "", length, place.origin, place.line, place.column, path


def problems_in(error: NoetherError) -> tuple[Problem, ...]:
    """Return the problems of an error; an error without places in a spec is one problem without a path."""
    if isinstance(error, InvalidSpecError):
        return error.problems
    code = error.code if error.code in CODES else "failed"
    return (Problem(code or "failed", (), withheld(error.message), withheld(error.hint) if error.hint else None),)


def as_json(problems: Iterable[Problem]) -> str:
    """Return a JSON list with one object per problem."""
    return json.dumps([_object(problem) for problem in problems], indent=2, ensure_ascii=False)


def as_github(problems: Iterable[Problem]) -> str:
    """Return one workflow command `::error …` per problem, each in one line."""
    return "\n".join(_command(problem) for problem in problems)


def _object(problem: Problem) -> dict[str, Any]:
    return {
        "code": problem.code,
        "path": toml_path(problem.path),
        "message": problem.message,
        "hint": problem.hint,
        "places": [_place(place) for place in problem.places],
    }


def _place(place: Place) -> dict[str, Any]:
    return {
        "file": place.origin,
        "line": place.line,
        "column": place.column,
        "endLine": place.end_line,
        "endColumn": place.end_column,
    }


def _command(problem: Problem) -> str:
    head = f"{toml_path(problem.path)}: " if problem.path else ""
    place = next((place for place in problem.places if place.is_file), None)
    others = [f"{other.label or 'also'}: {_in_words(other)}" for other in problem.places if other is not place]
    help_lines = [f"help: {problem.hint}"] if problem.hint else []
    text = "\n".join([head + problem.message, *(others if place else ()), *help_lines])
    where = f"file={_property(place.origin)},line={place.line},col={place.column}," if place else ""
    return f"::error {where}title={problem.code}::{_data(text)}"


def _in_words(place: Place) -> str:
    """Return a further place of a problem as text, since an annotation has only one place."""
    if place.is_file:
        return f"{place.origin}:{place.line}:{place.column}"
    return f"{place.origin}: {visible(mask(place.text))}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


# A problem as text in the form of a compiler error: code, message, place, source line with carets, help


def render(problem: Problem, origin: str, *, color: bool = False) -> str:
    """Return a problem as a block of text.

    Args:
        problem: The problem.
        origin: The file or name of the spec, for a problem without a place.
        color: Colour the text for a terminal.
    """
    gutter = _Gutter(problem.places, color=color)
    shown = visible(toml_path(problem.path))
    path = f"   [{shown[:_LINE]}{'…' if len(shown) > _LINE else ''}]" if problem.path else ""
    lines = [gutter.painted(_RED, f"error[{problem.code}]") + gutter.painted(_BOLD, f": {problem.message}")]
    if not problem.places and (problem.path or origin != "the spec"):
        lines.append(gutter.arrow(f"{visible(origin)}{path}"))
    for number, place in enumerate(problem.places):
        lines += gutter.excerpt(place, path if number == 0 else "", "-" if number else "^")
    if problem.hint:
        lines += [gutter.note(f"help: {line}") for line in problem.hint.split("\n")]
    return "\n".join(lines)


class _Gutter:
    """Left margin of a block, wide enough for its line numbers."""

    def __init__(self, places: tuple[Place, ...], *, color: bool) -> None:
        self._width = max((len(str(place.line)) for place in places if place.is_file), default=1)
        self._color = color

    def painted(self, paint: str, text: str) -> str:
        return f"{paint}{text}{_PLAIN}" if self._color else text

    def arrow(self, text: str) -> str:
        return " " * self._width + self.painted(_BLUE, "-->") + f" {text}"

    def note(self, text: str) -> str:
        return " " * (self._width + 1) + self.painted(_BLUE, "=") + f" {text}"

    def excerpt(self, place: Place, path: str, mark: str) -> list[str]:
        where = f"{place.origin}:{place.line}:{place.column}" if place.is_file else place.origin
        via = f", pulled in by {place.via}" if place.via else ""
        shown, carets = excerpt(place, mark)
        number = str(place.line) if place.is_file else ""
        return [
            self.arrow(f"{visible(where)}{path}{visible(via)}"),
            self._row(""),
            self._row(number, shown),
            self._row("", self.painted(_RED if mark == "^" else _BLUE, f"{carets} {place.label}".rstrip())),
        ]

    def _row(self, number: str, text: str = "") -> str:
        return f"{self.painted(_BLUE, f'{number:>{self._width}} |')} {text}".rstrip()


def excerpt(place: Place, mark: str = "^") -> tuple[str, str]:
    """Return the line of a place as a terminal shows it, and the marks below it.

    Only the first of several lines is shown; a long line is cut around the marked part.
    """
    text = place.text
    start = min(place.column - 1, len(text))
    end = len(text) if place.end_line > place.line else min(place.end_column - 1, len(text))
    goes_on = "…" if place.end_line > place.line else ""
    before, marked, behind = text[:start], text[start:end], text[end:]
    if len(text) > _LINE:
        if len(before) > _CONTEXT:
            before = "…" + before[-_CONTEXT:]
        if len(marked) > _MARKED:
            marked, behind, goes_on = marked[:_MARKED] + "…", "", ""
        if len(behind) > _CONTEXT:
            behind = behind[:_CONTEXT] + "…"
    before, marked, behind = (_shown(part) for part in (before, marked, behind))
    shown = f"{before}{marked}{behind}{goes_on}".rstrip()
    return shown, " " * _width(before) + mark * max(_width(marked), 1) + goes_on


def _shown(text: str) -> str:
    return visible(mask(text).replace("\t", _TAB))


def _width(text: str) -> int:
    """Return the number of terminal columns that text takes."""
    return sum(_columns(character) for character in text)


def _columns(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
