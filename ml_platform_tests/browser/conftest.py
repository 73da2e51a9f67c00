"""The finished home, served as people see it, and a Chromium that counts the reader's clicks."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, sync_playwright

COMMAND = str(Path(sys.executable).with_name("ml-platform"))
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
PATIENCE_MS = 120_000
SCREENSHOTS = Path(__file__).parent / "screenshots"


@dataclass
class Reader:
    """Someone who starts at the front page of the Dagster UI; every click is counted."""

    page: Page
    url: str
    clicks: int = 0

    def start(self) -> None:
        """Open the front page."""
        self.page.goto(self.url)
        self.page.get_by_role("link", name="Catalog").wait_for()

    def click(self, target: Locator) -> None:
        """Click what is seen, scrolling to it if need be: long lists draw only what is in view."""
        self.page.mouse.move(1000, 700)
        for _ in range(60):
            if target.count():
                break
            self.page.wait_for_timeout(500)
            self.page.mouse.wheel(0, 300)
        target.first.click()
        self.clicks += 1

    def follow(self, target: Locator) -> Page:
        """Click a link that opens a page of its own; that page."""
        with self.page.context.expect_page() as opened:
            self.click(target)
        opened.value.set_default_timeout(PATIENCE_MS)
        opened.value.wait_for_load_state()
        return opened.value

    def open_asset(self, key: str) -> None:
        """Two clicks: the catalogue, and the asset."""
        self.click(self.page.get_by_role("link", name="Catalog"))
        self.click(self.page.locator(f"a[href$='/assets/{key}']"))
        self.page.get_by_text("Metadata", exact=True).first.wait_for()

    def sees(self, text: str) -> None:
        """Wait until the page says so, however its lines are broken.

        Raises:
            AssertionError: it does not; the message has the page's text.
        """
        self.wait_for(self.page, text)

    @staticmethod
    def wait_for(page: Page, text: str) -> None:
        """As :meth:`sees`, of any page."""
        flat = "wanted => document.body.innerText.replace(/\\s+/g, ' ').includes(wanted)"
        try:
            page.wait_for_function(flat, arg=" ".join(text.split()))
        except Exception as error:
            raise AssertionError(f"{text!r} is not on {page.url}:\n{page.inner_text('body')}") from error

    def shoot(self, name: str, page: Page | None = None) -> None:
        """Keep a picture of what is seen."""
        SCREENSHOTS.mkdir(exist_ok=True)
        (page or self.page).screenshot(path=SCREENSHOTS / f"{name}.png")


@pytest.fixture(scope="session")
def status(finished_home: Path) -> dict[str, Any]:
    """What `ml-platform status --json` says: pages must say the same."""
    answer = subprocess.run(
        [COMMAND, "status", "--json"], env=_environment(finished_home), check=True, capture_output=True, text=True
    )
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


@pytest.fixture(scope="session")
def dagster_url(finished_home: Path, status: dict[str, Any]) -> Iterator[str]:
    """`ml-platform up`; the address of the Dagster UI."""
    serving = subprocess.Popen([COMMAND, "up"], env=_environment(finished_home), text=True, stdout=subprocess.PIPE)
    assert serving.stdout is not None
    try:
        printed = ""
        for line in serving.stdout:
            printed += line
            if "Ctrl-C stops everything" in line:
                break
        else:
            raise AssertionError(f"`ml-platform up` ended: {printed}")
        yield status["links"]["dagster"]
    finally:
        serving.terminate()
        serving.wait(60)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium, as the system has it."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture
def reader(browser: Browser, dagster_url: str) -> Iterator[Reader]:
    """A reader at the front page."""
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    page.set_default_timeout(PATIENCE_MS)
    someone = Reader(page, dagster_url)
    someone.start()
    yield someone
    page.context.close()


def _environment(home: Path) -> dict[str, str]:
    return {**os.environ, "ML_PLATFORM_HOME": str(home)}
