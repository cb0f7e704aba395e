"""The notebooks run from the first cell to the last, and are stored as they ran."""

from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed (extra [notebooks])")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed (extra [notebooks])")

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))


def test_there_are_notebooks_and_they_are_numbered():
    assert NOTEBOOKS and [int(name.split("_")[0]) for name in NOTEBOOKS] == list(range(1, len(NOTEBOOKS) + 1))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_stored_with_the_outputs_of_a_run_in_order(name):
    notebook = nbformat.read(FOLDER / name, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    found = [output.output_type for cell in code for output in cell.outputs]
    assert "error" not in found and "display_data" in found
    assert not any(output.get("name") == "stderr" for cell in code for output in cell.outputs)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning")  # of the kernel's own libraries
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_and_what_it_asserts_holds(name, tmp_path):
    notebook = nbformat.read(FOLDER / name, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    stored = nbformat.read(FOLDER / name, as_version=4)
    for cell, before in zip(notebook.cells, stored.cells, strict=True):
        assert kinds(cell) == kinds(before), cell.source


def kinds(cell: dict[str, Any]) -> list[str]:
    """Kinds of a cell's outputs; how a stream is cut into pieces is a matter of luck."""
    return [kind for kind, _ in groupby(output["output_type"] for output in cell.get("outputs", []))]
