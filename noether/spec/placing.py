"""Point at the texts that a problem is about: find the places of its paths in the layers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from noether.spec.locate import TomlPath
from noether.spec.origins import Origins
from noether.spec.place import Place
from noether.spec.problem import Problem


def located(problems: Iterable[Problem], origins: Origins) -> list[Problem]:
    """Return the problems with the places of what they are about; those that know theirs stay as they are.

    Something missing is placed at the table that should hold it, or at the first line of the file.
    """
    return [problem if problem.places else replace(problem, places=_places(problem, origins)) for problem in problems]


def _places(problem: Problem, origins: Origins) -> tuple[Place, ...]:
    places = (_place(path, origins, key=problem.on_key) for path in problem.at or (problem.path,))
    found = list(dict.fromkeys(place for place in places if place is not None))
    if len(found) < 2:
        return tuple(found)
    if problem.labels is None:  # none of them is to blame more than the others
        found.sort(key=_in_reading_order)
    first, others = problem.labels or _TOGETHER
    return tuple(replace(place, label=others if number else first) for number, place in enumerate(found))


def _in_reading_order(place: Place) -> tuple[bool, bool, int, str, int, int]:
    """Files before arguments, what is extended before what extends it."""
    length = 0 if place.is_file else len(place.origin)  # argument 2 comes before argument 10
    return not place.is_file, place.via is None, length, place.origin, place.line, place.column


_TOGETHER = ("first set here", "and here")


def _place(path: TomlPath, origins: Origins, *, key: bool) -> Place | None:
    """Return where the newest layer writes a path; for a path that nobody writes, its table."""
    written, sources = origins.nearest(path)
    on_key = key and written == path
    if written != path:  # of the layers that mention the table, the one that has its header
        sources = tuple(sorted(sources, key=lambda source: not source.layer.opens(source.path)))
    places = (source.key_place if on_key else source.place for source in sources)
    return next((place for place in places if place is not None), None)
