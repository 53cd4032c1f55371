"""Trust: the top-level packages that a dotted `kind` may import, decided without importing anything."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from copy import copy
from importlib import invalidate_caches
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules
from types import FrameType

from noether.errors import PluginError
from noether.kernel.names import nearest

ALWAYS_TRUSTED = frozenset({"noether", "torch"})
_MISSPELT = 0.75  # least similarity to a trusted name
_LIBRARIES = ("stdlib", "platstdlib", "purelib", "platlib")
_INSTALLED = [Path(sysconfig.get_path(name)).resolve() for name in _LIBRARIES]
_STANDARD = sys.stdlib_module_names | set(sys.builtin_module_names)
SCRIPT = "__main__"
"""Module of the running script or notebook; trusted only if it is named."""
_BETWEEN = frozenset({"noether", "pydantic", "pydantic_core", "__mp_main__"})
"""Packages whose frames are not those of the author of a value in Python."""


def calling_package() -> str | None:
    """Return the top-level package of the Python code that called Noether, `__main__` for a script or a notebook."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        top = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if top == SCRIPT or (top not in _BETWEEN and not _is_standard(top)):
            return top
        frame = frame.f_back
    return None


RUN_MARK = "run.json"
"""File that marks a run folder. It may come from a stranger, so nothing at or below it is code."""


def run_folder_of(path: Path) -> Path | None:
    """Return the outermost run folder that a path, as it is written or behind its links, lies in; None if in none."""
    written = path.absolute()
    for place in (written.resolve(), written):
        for folder in reversed((place, *place.parents)):
            if ".." not in folder.parts and os.path.lexists(folder / RUN_MARK):
                return folder
    return None


def is_path(trusted: str) -> bool:
    """Return True if what a user trusts is a file or folder of specs, and not a package: `../shared`, `./base.toml`."""
    return "/" in trusted or os.sep in trusted or trusted in (".", "..")


class Trust:
    """Decides which top-level packages a spec may import.

    Args:
        packages: Top-level packages that are trusted by name: those of plugins and of `--trust`.
        project_folders: Folders whose own packages, there or in their `src`, are trusted; not those in a run folder.
        data_folders: Folders beside run folders that hold data only.
    """

    def __init__(
        self, packages: Iterable[str] = (), project_folders: Iterable[Path] = (), data_folders: Iterable[Path] = ()
    ) -> None:
        self._data_folders = [Path(folder).resolve() for folder in data_folders]
        self._packages = ALWAYS_TRUSTED | set(packages)
        projects = [Path(folder) for folder in project_folders]
        self._folders = [
            place for folder in projects if run_folder_of(folder) is None for place in _roots(folder.resolve())
        ]

    def also(self, top: str) -> Trust:
        """Return the same trust with one more package."""
        wider = copy(self)
        wider._packages = self._packages | {top}
        return wider

    def covers(self, top: str) -> bool:
        """Return True if the top-level package `top` is trusted."""
        if _is_standard(top):
            return top == SCRIPT and top in self._packages
        return top in self._packages or self._project_root(top) is not None

    def require(self, top: str, kind: str) -> None:
        """Make `top` importable: a project's folder is added to the end of `sys.path`.

        Raises:
            PluginError: if it is not trusted; nothing was imported.
        """
        if not self.covers(top):
            self._require_visible(top, kind)
            meant = self._meant(top)
            raise PluginError(
                f"kind {kind!r} is not imported: '{top}' is {_standing(top)}; a spec may name code of "
                f"noether, torch, installed plugins and its own project{meant}",
                hint=None if meant else trust_hint(top),
                code="not-trusted",
            )
        root = self._project_root(top)
        if root is not None and str(root) not in sys.path:
            sys.path.append(str(root))
            invalidate_caches()

    def _require_visible(self, top: str, kind: str) -> None:
        """Check that no other package of the same name hides that of the project.

        Raises:
            PluginError: if one does: it is imported already, or comes earlier on the path.
        """
        own = next((folder for folder, _ in self._of_projects(top)), None)
        if own is None or _is_standard(top):
            return
        others = _places_of(top)
        is_of_another = top in sys.modules and bool(others) and not lies_in_libraries(top)
        raise PluginError(
            f"kind {kind!r} is not imported: '{top}' of the project, in {own}, is hidden by another '{top}', "
            + (f"which this process has imported from {others[0]}" if is_of_another else "which Python finds first"),
            hint="use a process for each project"
            if is_of_another
            else f"rename that of the project; to use the other one, {trust_hint(top)}",
            code="not-trusted",
        )

    def require_code(self, module: str, kind: str) -> None:
        """Check that a module, whose package is imported, is not in a run folder or another folder of data.

        Raises:
            PluginError: if it is; it was not imported.
        """
        for place in _places_of(module):
            others = (folder for folder in self._data_folders if place.is_relative_to(folder))
            if (folder := run_folder_of(place) or next(others, None)) is not None:
                raise PluginError(
                    f"kind {kind!r} is not imported: {place} is in {folder}, a folder of runs",
                    hint="move the code into your project, or install it",
                    code="not-trusted",
                )

    def _meant(self, top: str) -> str:
        """Return `. Did you mean 'x'?` if a package was probably misspelt, or an empty string."""
        if _is_standard(top) or top in sys.modules or find_spec(top) is not None:
            return ""
        modules = (module.name for module in iter_modules(map(str, self._folders)))
        meant = nearest(top, [*self._packages, *modules], similarity=_MISSPELT)
        return f". Did you mean '{meant}'?" if meant else ""

    def is_project(self, top: str) -> bool:
        """Return True if `top` is the project's own code, neither installed nor trusted by name."""
        return top not in self._packages and self._project_root(top) is not None

    def is_own_file(self, file: Path) -> bool:
        """Return True if a file exists, lies in a project folder, and neither among installed nor among saved data."""
        real = file.resolve()
        if not real.is_file() or _is_installed(real) or run_folder_of(file) is not None:
            return False
        is_data = any(real.is_relative_to(folder) for folder in self._data_folders)
        return not is_data and any(real.is_relative_to(folder) for folder in self._folders)

    def would_import(self, top: str, file: Path) -> bool:
        """Return True if `import top` loads this file of a project."""
        root = self._project_root(top)
        return root is not None and root / file.name == file.resolve()

    def _project_root(self, top: str) -> Path | None:
        """Return the project folder from which `import top` would load it, or None."""
        found = self._of_projects(top)
        return next((folder for folder, spec in found if self._is_effective(top, spec)), None)

    def _of_projects(self, top: str) -> Iterator[tuple[Path, ModuleSpec]]:
        """Yield the project folders that have a package or module of this name, with that."""
        for folder in self._folders:
            spec = PathFinder.find_spec(top, [str(folder)])
            if spec is not None and _lies_in(spec, folder):
                yield folder, spec

    def _is_effective(self, top: str, spec: ModuleSpec) -> bool:
        """Return True if no package of that name, imported or earlier on the path, hides that of the project."""
        try:
            effective = find_spec(top)  # a top-level name: looks, does not import
        except ValueError:  # imported, but without a spec: a module made by hand
            return False
        return effective is None or _places(effective) == _places(spec)


def trust_hint(top: str) -> str | None:
    """Return the option that trusts a package, or None for Python's own modules, which specs may not import."""
    if top == SCRIPT:
        return f'move the code into a module of your project; in Python: trust=["{SCRIPT}"]'
    return None if _is_standard(top) else f'if you trust it: --trust {top}; in Python: trust=["{top}"]'


def _standing(top: str) -> str:
    if top == SCRIPT:
        return "the script that runs"
    return "a part of Python itself" if _is_standard(top) else "not trusted"


def _is_standard(top: str) -> bool:
    return top in _STANDARD or top.startswith("__")


def _roots(folder: Path) -> list[Path]:
    return [folder, folder / "src"]


def _places(spec: ModuleSpec) -> set[Path]:
    """Return the file of a module, or the folders of a namespace package."""
    if spec.origin is not None and spec.has_location:
        return {Path(spec.origin).resolve()}
    return {Path(place).resolve() for place in spec.submodule_search_locations or ()}


def _places_of(module: str) -> list[Path]:
    """Return the places of a module that are not installed; none for the running script, or a module made by hand."""
    try:
        spec = find_spec(module) if module != SCRIPT else None
    except ValueError:  # imported, but without a spec
        return []
    places = _places(spec) if spec is not None else ()
    return [place for place in places if not _is_installed(place)]


def _is_installed(place: Path) -> bool:
    return any(place.is_relative_to(parent) for parent in _INSTALLED)


def folder_of(package: str) -> Path | None:
    """Return the folder that holds a package or module that is imported."""
    module = sys.modules.get(package)
    place = next(iter(getattr(module, "__path__", ())), None) or getattr(module, "__file__", None)
    return Path(place).resolve().parent if place else None


def lies_in_libraries(package: str) -> bool:
    """Return True if a package that is imported was installed, rather than found in a folder of code."""
    places = [getattr(sys.modules.get(package), "__file__", None), *getattr(sys.modules.get(package), "__path__", ())]
    return any(_is_installed(Path(place).resolve()) for place in places if place)


def _lies_in(spec: ModuleSpec, folder: Path) -> bool:
    """Return True if a module is below `folder` and not installed; site-packages may be inside the folder."""
    places = _places(spec)
    return bool(places) and all(place.is_relative_to(folder) and not _is_installed(place) for place in places)
