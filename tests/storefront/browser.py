"""A shopper: a real headless browser at a real shop."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from tests.serving.http.services import Command, command

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
READ = """
return [...document.querySelectorAll(arguments[0])].filter((part) => part.checkVisibility())
  .map((part) => part.innerText.trim())
"""
CARDS = """
const texts = (card, selector) => [...card.querySelectorAll(selector)].map((part) => part.innerText.trim());
return [...document.querySelectorAll("#slate .card")].map((card) => ({
  item: card.dataset.item, top: card.offsetTop, left: card.offsetLeft,
  title: texts(card, ".open")[0], price: Number(texts(card, ".price")[0]), tier: texts(card, ".tier")[0],
  sources: [...card.querySelectorAll(".why li")].map((chip) => chip.dataset.source),
  why: texts(card, ".why li"), odds: texts(card, "dd"),
}))
"""


class Browser:
    """What a shopper sees and does. What is not there yet is waited for."""

    def __init__(self) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1360,900"):
            options.add_argument(f"--{argument}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options, webdriver.ChromeService(str(DRIVER)))

    def until(self, true: Callable[[], Any]) -> Any:
        """The first value that counts as true."""
        return WebDriverWait(self.driver, 20, poll_frequency=0.05).until(lambda _: true())

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def texts(self, selector: str) -> list[str]:
        """Of all elements that can be seen now."""
        found: list[str] = self.run(READ, selector)
        return found

    def reads(self, selector: str, *texts: str) -> None:
        """Wait until so many elements can be seen, and each holds its text."""

        def does() -> bool:
            found = self.texts(selector)
            return len(found) == len(texts) and all(map(str.__contains__, found, texts))

        try:
            self.until(does)
        except Exception as error:
            raise AssertionError(f"{selector}: {self.texts(selector)}, not {texts}") from error

    def click(self, selector: str, place: int = 0) -> None:
        """As with a mouse: what is covered or switched off cannot be clicked."""
        self.until(lambda: len(self.texts(selector)) > place)
        self.driver.find_elements(By.CSS_SELECTOR, selector)[place].click()

    def choose(self, field: str, typed: str, wanted: str) -> None:
        """Type into a field with suggestions and take one, all by keyboard."""
        found: WebElement = self.driver.find_element(By.CSS_SELECTOR, field)
        found.send_keys(typed)
        options = f"#{found.get_attribute('aria-controls')} [role=option]"
        self.until(lambda: wanted in self.texts(f"{options} .title"))
        place = self.texts(f"{options} .title").index(wanted)
        found.send_keys(Keys.ARROW_DOWN * place)  # it stands on the first
        self.reads(f"{options}[aria-selected=true] .title", wanted)
        found.send_keys(Keys.ENTER)

    def six(self) -> list[dict[str, Any]]:
        """The cards of the slate, all distinct, once it is there."""
        self.until(lambda: len(self.texts("#slate .card")) == 6)
        cards: list[dict[str, Any]] = self.run(CARDS)
        assert len({card["item"] for card in cards}) == 6
        return cards

    def complaints(self) -> list[str]:
        """What the console says is wrong, since the last time."""
        return [line["message"] for line in self.driver.get_log("browser") if line["level"] == "SEVERE"]


@contextmanager
def shop(browser: Browser, bundle: Path, folder: Path, *arguments: str) -> Iterator[Command]:
    """A shop at whose door the browser stands; store and log are in `folder`."""
    with command(bundle, "--data-dir", str(folder), *arguments, module=["storefront"]) as opened:
        browser.driver.get(opened.url)
        browser.until(lambda: browser.texts("#popular li"))
        yield opened
