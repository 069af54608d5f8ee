"""The monitor's page is put into a frame where the reader's browser reaches it, and nowhere else."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
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


class Monitor(http.server.BaseHTTPRequestHandler):
    """A page on loopback."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<h1>the monitor</h1>")

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Monitor)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield int(server.server_address[1])
    server.shutdown()
    server.server_close()


def shown(browser: Browser, address: str, port: int) -> tuple[Any, list[str]]:
    """The output on a page at `address`, and what it asked for beside that page."""
    output = Page(f"http://127.0.0.1:{port}/", "What it shows.")
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.route(
        f"{address}/**",
        lambda route: route.fulfill(content_type="text/html", body=f"<body>{output._repr_html_()}</body>"),
    )
    page.goto(f"{address}/lab")
    return page, asked[1:]


def test_on_the_same_machine_it_is_in_a_frame(browser: Browser, port: int) -> None:
    page, _ = shown(browser, "http://127.0.0.1:18999", port)
    expect(page.frame_locator("iframe").get_by_text("the monitor")).to_be_visible(timeout=20_000)
    expect(page.get_by_role("link")).to_be_visible()
    page.close()


@pytest.mark.parametrize("address", ["http://hub.example", "https://hub.example", "https://127.0.0.1:18999"])
def test_elsewhere_nothing_is_asked_of_loopback(browser: Browser, port: int, address: str) -> None:
    page, asked = shown(browser, address, port)
    page.wait_for_load_state("networkidle")
    assert [url for url in asked if f":{port}" in url] == []
    assert page.locator("iframe").count() == 0
    for text in ("What it shows.", f"ssh -L {port}:127.0.0.1:{port} HOST"):
        expect(page.get_by_text(text)).to_be_visible()
    page.close()


def test_a_port_that_is_not_forwarded_leaves_the_link(browser: Browser, port: int) -> None:
    # as through `ssh -L 8888`: JupyterLab is on loopback, and nothing answers at the other port
    page, _ = shown(browser, "http://127.0.0.1:18999", 1)
    page.wait_for_load_state("networkidle")
    assert page.locator("iframe").count() == 0
    expect(page.get_by_role("link")).to_have_attribute("href", "http://127.0.0.1:1/")
    page.close()
