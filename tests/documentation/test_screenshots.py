"""Pictures of the pages: first screens for the documentation, whole pages for review."""

from pathlib import Path

import pytest
from PIL import Image

from documentation import screenshots
from documentation.page_browser import open_browser
from tests.reporting.pages import PAGES
from tests.storefront.browser import CHROMIUM, DRIVER

MAX_BYTES = 150_000  # of a picture in the documentation


@pytest.mark.skipif(not CHROMIUM or not DRIVER, reason="no chromium with its driver")
def test_a_page_is_photographed_in_all_renderings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screenshots, "WORK", tmp_path)
    monkeypatch.setattr(screenshots, "REPORTS", tmp_path / "reports")
    page = tmp_path / "pages" / "experiment.html"
    page.parent.mkdir()
    page.write_text(PAGES["experiment"]())
    with open_browser() as browser:
        screenshots.photograph_page(browser, "experiment", tmp_path / "out")
    for scheme, is_dark in screenshots.SCHEMES.items():
        first = tmp_path / "out" / f"experiment-{scheme}.png"
        assert first.stat().st_size < MAX_BYTES
        picture = Image.open(first).convert("L")
        assert picture.size == screenshots.WIDE
        assert (picture.getpixel((2, 2)) < 100) == is_dark
        for width, height in (screenshots.WIDE, screenshots.NARROW):
            whole = Image.open(tmp_path / "reports" / "screens" / f"experiment-{width}-{scheme}.png")
            assert whole.width == width
            assert whole.height > height


def test_an_unknown_page_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_error:
        screenshots.main(["front"])
    assert exit_error.value.code == 2
    assert "no page front: expected some of evaluation, " in capsys.readouterr().err
