"""Notebooks without a browser: their pages, and the report on a failure."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image

from labhelpers.commandline import runner
from labhelpers.errors import BadInput

FIGURE = "import matplotlib.pyplot as plt\n_ = plt.plot([1, 2])\nplt.show()"


def notebook(folder: Path, *sources: str, tags: tuple[str, ...] = ()) -> Path:
    cells = [new_markdown_cell("# A title"), *(new_code_cell(source) for source in sources)]
    cells[-1].metadata["tags"] = list(tags)
    path = folder / "42_trial.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    return path


def test_a_page_holds_text_output_and_figure(tmp_path: Path) -> None:
    done = runner.execute(notebook(tmp_path, "print('seen' + ' it')", FIGURE), tmp_path / "out")
    assert (done.failed_cell, done.cells) == (None, 2)
    assert done.page is not None
    text = done.page.read_text(encoding="utf-8")
    assert "A title" in text
    assert "seen it" in text
    assert "data:image/png;base64," in text


def test_a_failing_cell_is_named_and_its_page_still_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = notebook(
        tmp_path, "1", "from labhelpers.errors import BadInput\nraise BadInput('no', hint='yes')", "3"
    )
    done = runner.execute(path, tmp_path / "out")
    assert done.failed_cell == 2
    assert "BadInput: no" in done.error
    assert "Traceback" not in done.error
    assert done.page is not None
    assert not runner.report([done])
    printed = capsys.readouterr().out
    assert "42_trial: cell 2 of 3 failed" in printed
    assert "BadInput: no" in printed


def test_an_expected_error_is_not_a_failure(tmp_path: Path) -> None:
    done = runner.execute(notebook(tmp_path, "1 / 0", tags=("nbval-raises-exception",)))
    assert done.failed_cell is None


def test_a_kernel_that_dies_is_named(tmp_path: Path) -> None:
    done = runner.execute(notebook(tmp_path, "1", "import os; os._exit(3)"))
    assert (done.failed_cell, done.error) == (2, "the kernel died")


def test_the_notebook_itself_is_not_changed(tmp_path: Path) -> None:
    path = notebook(tmp_path, "print(1)")
    before = path.read_bytes()
    runner.execute(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["01", "01_vm_and_container", "vm", "notebooks/01_vm_and_container.ipynb"])
def test_a_chapter_has_several_names(name: str) -> None:
    assert [path.stem for path in runner.notebooks([name])] == ["01_vm_and_container"]


@pytest.mark.parametrize("name", ["99", "", "no_such", "0"])
def test_a_wrong_chapter_is_answered_with_the_right_ones(name: str) -> None:
    with pytest.raises(BadInput) as caught:
        runner.notebooks([name])
    assert "00_start_here" in caught.value.hint


def test_stored_outputs_are_small_and_name_no_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABHELPERS_HOME", str(tmp_path / "state"))
    widget = "import ipywidgets\nipywidgets.IntSlider()"
    path = notebook(tmp_path, "print('a'); print('b')", "import os; print(os.getcwd())", FIGURE, widget)
    engine = f"print('{tmp_path}/state/engine/docker.sock', '{tmp_path}/state/progress.json')"
    read = nbformat.read(path, as_version=4)
    alternative_text = (
        f"display({{'text/plain': ''}}, raw=True, metadata={{'image/png': {{'alt': '{tmp_path}/state/x'}}}})"
    )
    read.cells += [new_code_cell(engine), new_code_cell(alternative_text)]
    nbformat.write(read, path)
    executed = runner.execute(path, store=True)
    assert executed.failed_cell is None
    stored = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in stored] == [1, 2, 3, 4, 5, 6]
    assert [output.text for output in stored[0].outputs] == ["a\nb\n"]
    assert stored[1].outputs[0].text == "/home/reader/notebooks\n"
    figure = Image.open(io.BytesIO(base64.b64decode(stored[2].outputs[-1].data["image/png"])))
    assert figure.mode == "P"
    assert list(stored[3].outputs[0].data) == ["text/plain"]
    assert stored[4].outputs[0].text == "/var/run/docker.sock /home/reader/.labhelpers/progress.json\n"
    assert stored[5].outputs[0].metadata["image/png"].alt == "/home/reader/.labhelpers/x"
    assert str(tmp_path) not in repr([cell.outputs for cell in stored])


def test_a_notebook_that_fails_keeps_its_outputs(tmp_path: Path) -> None:
    path = notebook(tmp_path, "print(1)", "1 / 0")
    before = path.read_bytes()
    assert runner.execute(path, store=True).failed_cell == 2
    assert path.read_bytes() == before
