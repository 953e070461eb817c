"""docs/colab.ipynb and the Python of docs/use.md. Run after `bash schedule.sh`: python -m pytest tests/test_notebook.py

The two that run code need out/toy and skip without it. They write trace.html and merged/ into it.
"""

import contextlib
import io
import os
import re
import sys

import pytest

from conftest import ROOT

nbformat = pytest.importorskip("nbformat")
NOTEBOOK = ROOT / "docs/colab.ipynb"
done = pytest.mark.skipif(not (ROOT / "out/toy/summary.json").is_file(), reason="bash schedule.sh makes out/toy")


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_a_valid_notebook_that_stores_no_outputs(notebook):
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells and not any(cell.outputs or cell.execution_count for cell in cells)


def test_a_command_that_fails_stops_the_notebook(notebook):
    cells = [cell.source for cell in notebook.cells if re.search(r"^(python|bash) ", cell.source, re.M)]
    assert cells and all(cell.startswith("%%bash -e\n") for cell in cells)


@done
def test_it_runs_from_top_to_bottom(notebook, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    monkeypatch.setenv("PATH", f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}")
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(ROOT)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = [item for output in outputs for item in output.get("data", {}).items()]
    text = "".join(output.get("text", "") or output.get("data", {}).get("text/markdown", "") for output in outputs)
    assert [kind for kind, _ in shown].count("image/png") == 3
    assert any("<iframe" in html for kind, html in shown if kind == "text/html")
    assert "of the tokens, pass@1" in text and re.search(r"\\boxed\{\d+\}", text) and "\n## The prompt\n" in text


@done
def test_the_python_of_the_page_on_use_boxes_the_same_answer_from_merged_model_and_adapter(monkeypatch):
    if not (ROOT / "out/toy/merged").is_dir():
        pytest.skip("the notebook makes out/toy/merged")
    monkeypatch.chdir(ROOT)
    blocks, names, said = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/use.md").read_text(), re.M | re.S), {}, []
    for block in blocks:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(block, names)
        said.append(out.getvalue())
    merged, adapter, uploaded = said
    assert re.search(r"</think>\s.*\\boxed\{\d+\}", merged) and merged == adapter
    assert "model.safetensors" in uploaded and "base_model: out/toy_base" in uploaded
