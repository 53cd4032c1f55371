"""The notebook of the documentation runs from its first cell to its last, and its cells show what they promise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

NEEDED = "the notebook needs nbclient and ipykernel: pip install -c constraints.txt nbclient ipykernel"
nbformat = pytest.importorskip("nbformat", reason=NEEDED)
NotebookClient = pytest.importorskip("nbclient", reason=NEEDED).NotebookClient
pytest.importorskip("ipykernel", reason=NEEDED)

NOTEBOOK = Path("docs", "tutorials", "notebook.ipynb")


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The code cells of the notebook, with their outputs."""
    notebook = nbformat.read(Path(__file__).parents[2] / NOTEBOOK, as_version=4)
    folder = tmp_path_factory.mktemp("notebook")
    (folder / "pyproject.toml").touch()  # the root of the project
    NotebookClient(notebook, timeout=90, resources={"metadata": {"path": str(folder)}}).execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def of_kind(cell: Any, kind: str) -> list[str]:
    return [output.data[kind] for output in cell.outputs if kind in output.get("data", {})]


@pytest.mark.filterwarnings("ignore")  # of the client of notebooks, in its own threads and sockets
def test_the_notebook_runs_and_shows_a_bar_a_run_a_table_and_pictures(executed: list[Any]):
    bar, outcome, table, digits, comparison = executed
    assert 'max="220"' in of_kind(bar, "text/html")[0]
    assert "accuracy/test/label" in of_kind(bar, "text/plain")[0]
    assert len(of_kind(bar, "text/html")) == 1
    lines = "".join(output.text for output in bar.outputs if output.output_type == "stream").splitlines()
    assert not [line for line in lines if line.startswith("epoch")]
    assert "<svg" in of_kind(outcome, "text/html")[0]
    assert "accuracy/test/label" in of_kind(table, "text/html")[0]
    assert all(of_kind(cell, "image/png") for cell in (digits, comparison))
    assert not comparison.outputs[0].get("text")


def test_the_stored_notebook_has_no_outputs():
    notebook = nbformat.read(Path(__file__).parents[2] / NOTEBOOK, as_version=4)
    assert not [cell for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")]
