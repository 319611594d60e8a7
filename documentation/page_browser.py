"""A headless browser that photographs pages at a width, light or dark."""

import base64
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

MAX_HEIGHT = 16_000  # pixels of a picture of a whole page
OVERFLOW = "return document.scrollingElement.scrollWidth - document.documentElement.clientWidth"
SMALL_TEXT = """
const texts = [...document.querySelectorAll("svg text")].filter((text) => text.checkVisibility());
const sizes = texts.map((text) => {
  const svg = text.ownerSVGElement, scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
  return parseFloat(getComputedStyle(text).fontSize) * scale;
});
return sizes.length ? Math.min(...sizes) : null
"""
TEXT_OUTSIDE = """
return [...document.querySelectorAll("svg text")].filter((text) => text.checkVisibility()).filter((text) => {
  const box = text.getBoundingClientRect(), frame = text.ownerSVGElement.getBoundingClientRect();
  return box.left < frame.left - 2 || box.right > frame.right + 2 || box.bottom > frame.bottom + 2;
}).map((text) => text.textContent)
"""
OVERLAPS = """
const result = [];
for (const svg of document.querySelectorAll("svg")) {
  if (!svg.checkVisibility()) continue;
  const texts = [...svg.querySelectorAll("text")];
  const boxes = texts.map((text) => [text.textContent, text.getBoundingClientRect()]);
  boxes.forEach(([name, a], k) => boxes.slice(0, k).forEach(([other, b]) => {
    const width = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const height = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (width > 3 && height > 5) result.push(`${other} | ${name}`);
  }));
}
return result
"""


class PageBrowser:
    """A running Chromium with one page."""

    def __init__(self, driver: "Chrome") -> None:
        self.driver = driver

    def open(self, address: str, width: int, height: int, is_dark: bool = False) -> None:
        """Load a page in a window of this size."""
        self._set_window(width, height)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self._command("Emulation.setEmulatedMedia", features=[scheme])
        self.driver.get(address)

    def evaluate(self, script: str, *arguments: object) -> Any:
        """Return the value of a script on the page."""
        return self.driver.execute_script(script, *arguments)

    def first_screen(self) -> bytes:
        """Return a PNG of the window."""
        return base64.b64decode(self._command("Page.captureScreenshot", format="png")["data"])

    def whole_page(self, width: int) -> bytes:
        """Return a PNG of the page down to MAX_HEIGHT."""
        height = self.evaluate("return document.scrollingElement.scrollHeight")
        self._set_window(width, min(height, MAX_HEIGHT))
        return self.first_screen()

    def _set_window(self, width: int, height: int) -> None:
        self._command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def _command(self, name: str, **arguments: Any) -> Any:
        return self.driver.execute_cdp_cmd(name, arguments)


@contextmanager
def open_browser() -> Iterator[PageBrowser]:
    """Start Chromium. Raises OSError if Chromium is not installed."""
    from selenium import webdriver

    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        raise OSError("there is no browser: apt install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "hide-scrollbars"):
        options.add_argument(f"--{argument}")
    chrome = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        yield PageBrowser(chrome)
    finally:
        chrome.quit()
