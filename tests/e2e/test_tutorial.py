"""The notebook runs from its first cell to its last, and holds what came of it."""

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.e2e.conftest import ENVIRONMENT, ROOT

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def kinds(notebook: Any) -> list[list[str]]:  # noqa: ANN401  # nbformat has no types
    """Return, for each cell of code, whether it has printed and whether it has drawn."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [
        sorted({"image/png" if "image/png" in out.get("data", {}) else out.output_type for out in cell.outputs})
        for cell in cells
    ]


def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = nbformat.read(ROOT / "examples" / "tutorial.ipynb", as_version=4)  # type: ignore[no-untyped-call]
    nbformat.validate(stored)
    assert kinds(stored).count(["image/png"]) == 2
    monkeypatch.delenv("ACCUPOISON_DATA", raising=False)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    made = nbformat.from_dict(stored)  # type: ignore[no-untyped-call]
    NotebookClient(made, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    for cell in made.cells:  # warnings of others are no result
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
    assert kinds(made) == kinds(stored)
    assert (tmp_path / "report" / "report.html").exists()
