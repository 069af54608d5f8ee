"""The first notebook in a real browser: it runs, and its exercise completes without a click."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, Route, expect, sync_playwright

from labhelpers import state
from labhelpers.commandline import jupyter
from labhelpers.course.predictions import prediction_for
from labhelpers.course.progress import progress
from labhelpers.engine import Engine, images
from labhelpers.start.exercises import IMAGE, NAME

CHROMIUM = Path("/usr/bin/chromium")
SWITCHES = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
RUN_ALL_MS = 120_000

pytestmark = [
    pytest.mark.skipif(
        not CHROMIUM.exists(), reason=f"no browser: {CHROMIUM} is missing (apt-get install chromium)"
    ),
    pytest.mark.timeout(300),
    # Playwright's event loop outlives the test that began it
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
def page(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    """JupyterLab on the first notebook, with its own state directory; nothing is saved to the checkout."""
    images.ensure(engine, "base", print)
    # the bytecode that is there already: a JupyterLab is much to compile
    (tmp_path / "cache").symlink_to(state.path("cache"))
    monkeypatch.setenv("LABHELPERS_HOME", str(tmp_path))
    # else JupyterLab takes cells that are out of sight out of the page
    _set("notebook-extension/tracker", {"windowingMode": "none"})
    _set("docmanager-extension/plugin", {"autosave": False})
    server = jupyter.start(engine)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
            opened = browser.new_page(viewport={"width": 1300, "height": 1000})
            opened.route("**/api/contents/**", _read_only)
            opened.goto(server.url)
            yield opened
            browser.close()
    finally:
        jupyter.stop()


def _set(plugin: str, settings: dict[str, object]) -> None:
    state.write_json(f"jupyter/settings/@jupyterlab/{plugin}.jupyterlab-settings", settings)


def _read_only(route: Route) -> None:
    if route.request.method == "PUT":
        route.abort()
    else:
        route.continue_()


@pytest.fixture
def no_container_of_that_name(engine: Engine) -> Iterator[None]:
    yield
    for container in engine.client.containers.list(
        all=True, filters={"name": f"^/{NAME}$"}, ignore_removed=True
    ):
        container.remove(force=True)


def run_all(page: Page) -> None:
    expect(page.get_by_text("| Idle")).to_be_visible(timeout=60_000)
    expect(page.get_by_role("dialog")).to_have_count(0)  # a notebook without a kernelspec asks for one
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()


def panel_of(page: Page) -> Locator:
    return page.locator(".jp-OutputArea-output", has=page.locator(".labhelpers-exercise"))


@pytest.mark.usefixtures("no_container_of_that_name")
def test_the_notebook_runs_and_its_exercise_completes_by_itself_also_when_its_cell_ran_again(
    page: Page, engine: Engine, tmp_path: Path
) -> None:
    run_all(page)
    panel = panel_of(page)
    expect(panel).to_contain_text(f"no container called {NAME}", timeout=RUN_ALL_MS)
    expect(page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']")).to_have_count(0)

    panel.get_by_role("button", name="Hint").click()
    expect(panel).to_contain_text("docker run --help")
    panel.screenshot(path=tmp_path / "open.png")

    page.get_by_label("each when its command ends").check()
    expect(page.get_by_text("Your prediction is saved.")).to_be_visible()
    assert prediction_for("00-life") == "each when its command ends"

    # the panel of a cell that is run again works as the first did
    cell = page.locator(".jp-CodeCell", has_text="start.first_exercise(lab)")
    before = cell.locator(".jp-InputArea-prompt").inner_text()
    cell.locator(".jp-InputArea-editor").click()
    page.keyboard.press("Control+Enter")
    expect(cell.locator(".jp-InputArea-prompt")).not_to_have_text(before, timeout=20_000)
    expect(panel).to_contain_text(f"no container called {NAME}", timeout=20_000)

    # a wrong answer first: the panel says what is missing, and does not complete
    container = engine.client.containers.run(IMAGE, "echo", detach=True, name=NAME)
    expect(panel).to_contain_text("it has ended, with exit code 0", timeout=20_000)
    container.remove()
    engine.client.containers.run(IMAGE, "sleep 600", detach=True, name=NAME)
    expect(panel).to_contain_text("Done.", timeout=20_000)
    expect(panel.get_by_role("button", name="Hint")).to_be_hidden()
    panel.screenshot(path=tmp_path / "done.png")
    assert [(row[0], row[2]) for row in progress().exercises] == [("00", True)]
