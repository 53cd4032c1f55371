"""The pages of the documentation and their code blocks, as tests see them."""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).parents[2]
_BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>[^\n]*?) -->\n)?(?P<fence>`{3,})(?P<language>[\w-]*)\n(?P<text>.*?)^(?P=fence)$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A code block; `mark` is the comment above it: `runnable`, `file: NAME`, `run: NAME`, or a reason."""

    place: str
    language: str
    text: str
    mark: str

    @property
    def file(self) -> str | None:
        """The file that the block shows: named above it, or in the comment on its first line."""
        named = re.match(r"file: (.+)", self.mark) or re.match(r"# (\S+\.(?:py|toml))\n", self.text)
        return named[1] if named else None


@dataclass(frozen=True)
class Page:
    path: Path
    text: str

    def all_blocks(self) -> list[Block]:
        name = self.path.relative_to(REPOSITORY)
        return [
            Block(
                f"{name}:{self.text.count(chr(10), 0, found.start()) + 1}",
                found["language"],
                found["text"],
                found["mark"] or "",
            )
            for found in _BLOCK.finditer(self.text)
        ]

    def blocks(self, language: str) -> list[Block]:
        return [block for block in self.all_blocks() if block.language == language]

    def write_files(self, folder: Path) -> None:
        """Write the files that the page shows; of a file that it shows twice, the later version stays."""
        for block in self.blocks("python") + self.blocks("toml"):
            if block.file:
                path = folder / block.file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block.text)

    @property
    def prose(self) -> str:
        """The text without its code blocks."""
        return _BLOCK.sub("", self.text)


@pytest.fixture
def repository() -> Path:
    return REPOSITORY


@pytest.fixture
def pages() -> list[Page]:
    """Every page of the documentation, and the README."""
    paths = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
    return [Page(path, path.read_text("utf-8")) for path in paths]


@pytest.fixture
def page(pages: list[Page]) -> dict[str, Page]:
    """The pages by file name."""
    return {page.path.name: page for page in pages}


@pytest.fixture
def project(workplace: Path) -> Iterator[Path]:
    """The working folder as a project whose code may be imported; nothing of it stays imported."""
    path, modules = list(sys.path), set(sys.modules)
    yield workplace
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if any(Path(place).is_relative_to(workplace) for place in _places(sys.modules[name])):
            del sys.modules[name]


def _places(module: ModuleType) -> list[str]:
    """Return the places of a module; a package without `__init__.py` has folders, but no file."""
    return [module.__file__] if getattr(module, "__file__", None) else list(getattr(module, "__path__", []))
