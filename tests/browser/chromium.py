"""A real browser: Debian's Chromium, headless, each with a profile of its own."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

FLAGS = (
    "--headless=new",
    "--no-sandbox",  # as root there is no other way
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--no-default-browser-check",
    "--metrics-recording-only",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--lang=en-GB",
)


@contextmanager
def open_browser(width: int = 1_024, height: int = 700) -> Iterator[Chrome]:
    """Run a browser for the time of a ``with`` block.

    Skips the test where there is none, or fails it where ``CI`` is "true".
    """
    binary, driver = find("chromium"), find("chromedriver")
    with tempfile.TemporaryDirectory(prefix="chromium-") as profile:
        options = ChromeOptions()
        options.binary_location = binary
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
            options.add_argument(flag)
        browser = Chrome(options=options, service=Service(driver))
        try:
            yield browser
        finally:
            browser.quit()


def find(program: str) -> str:
    """Return where a program is; gives up on the test if there is none."""
    return shutil.which(program) or give_up(f"there is no {program}: install Debian's {program}")


def give_up(why: str) -> NoReturn:
    """Skip the test, or fail it in CI, where everything must be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)
