"""Every block of the pages has a known form, and names programs, options, files and functions that exist."""

from pathlib import Path

import pytest

from tests.documentation.blocks import page_blocks, page_name, tracked_pages
from tests.documentation.page_checks import content_problems, form_problems

PAGES = tracked_pages()


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_blocks_have_a_known_form(page: Path) -> None:
    assert list(form_problems(page_blocks(page))) == []


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_blocks_name_what_exists(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert list(content_problems(page, tmp_path)) == []
