"""`python -m documentation.shop_picture`: draw the example shop after a checkout, with a real browser.

The command needs a bundle of The Complete Journey (`make demo`) and a browser: apt install chromium
chromium-driver.
"""

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from documentation.markdown import DOCS
from documentation.page_browser import open_browser
from serving.command_line import option, run

WINDOW = (1180, 850)  # pixels, of which the browser takes some
HOUSEHOLD = "1245"
WAIT_SECONDS = 30
SCROLL_TO_SLATE = "scrollTo(0, document.querySelector('#slate').getBoundingClientRect().top + scrollY - 80)"


@dataclass(frozen=True, kw_only=True)
class PictureOptions:
    """Write pictures of the shop after a household has paid, in light and in dark mode."""

    bundle: Path = option(Path("bundle"), "bundle root")
    household: str = option(HOUSEHOLD, "household whose last order is paid again")
    out: Path = option(DOCS / "pictures" / "shop.png", "file to write; the dark one has `_dark` in its name")


def draw_shop(options: PictureOptions) -> int:
    """Open the shop, pay, and write the pictures. Returns the exit code."""
    for is_dark in (False, True):
        file = options.out.with_stem(options.out.stem + "_dark") if is_dark else options.out
        photograph_shop(options.bundle, file, is_dark, options.household)
        print(file)
    return 0


def photograph_shop(bundle: Path, file: Path, is_dark: bool = False, household: str = HOUSEHOLD) -> None:
    """Open the shop on a bundle, pay, and write the picture. Raises OSError if the shop does not start."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "storefront", "--port", "0", "--data-dir", folder]
        command += ["--bundle", str(bundle)]
        shop = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            take_picture(_address(shop), household, file, is_dark)
        finally:
            shop.terminate()
            shop.wait(60)


def _address(shop: "subprocess.Popen[str]") -> str:
    """The address that the shop prints. Raises OSError if the shop ends without printing an address."""
    for line in shop.stdout or ():
        if match := re.search(r"^ready: (http://[\d.]+:\d+)", line):
            return match[1]
    raise OSError("the shop did not start: is there a bundle? `make demo` makes one")


def take_picture(address: str, household: str, file: Path, is_dark: bool = False) -> None:
    """Pay the household's last order again and save a picture of the page."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    with open_browser() as browser:
        browser.open(address, *WINDOW, is_dark)
        driver = browser.driver
        wait = WebDriverWait(driver, WAIT_SECONDS)
        wait.until(lambda d: d.find_elements(By.CSS_SELECTOR, "#popular li"))
        field = driver.find_element(By.CSS_SELECTOR, "#household")
        field.send_keys(household)
        wait.until(lambda d: d.find_elements(By.CSS_SELECTOR, "[role=option]"))
        field.send_keys(Keys.ENTER)
        wait.until(lambda d: d.find_elements(By.CSS_SELECTOR, "#orders button"))[0].click()
        wait.until(lambda d: d.find_element(By.CSS_SELECTOR, "#pay").is_enabled())
        driver.find_element(By.CSS_SELECTOR, "#pay").click()
        wait.until(lambda d: len(d.find_elements(By.CSS_SELECTOR, "#slate .card")) == 6)
        driver.execute_script(SCROLL_TO_SLATE)
        wait.until(lambda d: d.execute_script("return document.getAnimations().length === 0"))
        file.write_bytes(browser.first_screen())


if __name__ == "__main__":
    sys.exit(run("python -m documentation.shop_picture", draw_shop, errors=(OSError,)))
