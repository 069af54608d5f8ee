"""The monitor's page is put into a frame where the reader's browser reaches it, and nowhere else."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from labhelpers.services.monitor import Page

CHROMIUM = Path("/usr/bin/chromium")

pytestmark = [
    pytest.mark.skipif(
        not CHROMIUM.exists(), reason=f"no browser: {CHROMIUM} is missing (apt-get install chromium)"
    ),
    pytest.mark.timeout(120),
    # Playwright's event loop outlives the test that began it
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield opened
        opened.close()


@contextmanager
def serving(body: str) -> Iterator[int]:
    """A server on loopback that answers every GET with `body`; gives its port."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def port() -> Iterator[int]:
    """Of a monitor."""
    with serving("<h1>the monitor</h1>") as number:
        yield number


def output(port: int) -> str:
    """What the notebook's page shows of it."""
    return f"<body>{Page(f'http://127.0.0.1:{port}/', 'What it shows.')._repr_html_()}</body>"


def test_on_the_same_machine_it_is_in_a_frame(browser: Browser, port: int) -> None:
    page = browser.new_page()
    with serving(output(port)) as notebook:
        page.goto(f"http://127.0.0.1:{notebook}/")
        expect(page.frame_locator("iframe").get_by_text("the monitor")).to_be_visible(timeout=20_000)
        expect(page.get_by_role("link")).to_be_visible()
    page.close()


@pytest.mark.parametrize("address", ["http://hub.example", "https://hub.example", "https://127.0.0.1:18999"])
def test_elsewhere_nothing_is_asked_of_loopback(browser: Browser, port: int, address: str) -> None:
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.route(f"{address}/**", lambda route: route.fulfill(content_type="text/html", body=output(port)))
    page.goto(f"{address}/lab")
    page.wait_for_load_state("networkidle")
    assert [url for url in asked if f":{port}" in url] == []
    assert page.locator("iframe").count() == 0
    for text in ("What it shows.", f"ssh -L {port}:127.0.0.1:{port} HOST"):
        expect(page.get_by_text(text)).to_be_visible()
    page.close()


def test_a_port_that_is_not_forwarded_leaves_the_link(browser: Browser) -> None:
    # as through `ssh -L 8888`: JupyterLab is on loopback, and nothing answers at the other port
    page = browser.new_page()
    with serving(output(1)) as notebook:
        page.goto(f"http://127.0.0.1:{notebook}/")
        page.wait_for_load_state("networkidle")
        assert page.locator("iframe").count() == 0
        expect(page.get_by_role("link")).to_have_attribute("href", "http://127.0.0.1:1/")
    page.close()
