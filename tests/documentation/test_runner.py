"""The runner of pages: variables, folders, files, snippets and services of a page, and failures."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.documentation.blocks import parse_blocks
from tests.documentation.runner import PageRunner, small_settings
from tests.end_to_end.commands import environment

PAGE = """
```python
# files/page.py
NAME = "file"
```

```bash
NAME=world
mkdir -p files/below
cd files
```

```bash
echo "hello $NAME" > below/greeting.txt
python3 -m http.server
curl -sf localhost:8000/below/greeting.txt
```

<!-- not run: takes hours -->
```bash
false
```

```python
from files.page import NAME
first = 1
```

```python
from urllib.request import urlopen

print(NAME, first + 1, urlopen("http://localhost:8000/below/greeting.txt").read())
```
"""


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[PageRunner]:
    folder = tmp_path / "clone"
    folder.mkdir()
    runner = PageRunner(folder, environment(), Path(sys.prefix) / "bin")
    yield runner
    runner.close()


def test_a_page_runs_from_its_first_block_to_its_last(runner: PageRunner) -> None:
    runner.run_blocks(parse_blocks(PAGE))
    assert (runner.folder / "files" / "below" / "greeting.txt").read_text() == "hello world\n"
    assert runner.output == "hello world\nfile 2 b'hello world\\n'\n"


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ("```bash\necho before\ncat gone\n```\n", "line 3: cat gone"),
        ("```bash\nfalse | cat\n```\n", "line 2: false | cat"),
        ("```bash\npython3 -c 1/0 || true\n```\n", "line 2: python3 -c 1/0"),
        ("```python\nraise KeyError('gone')\n```\n", "KeyError: 'gone'"),
        ("```bash\n.venv/bin/python -m serving serve --bundle gone\n```\n", "ended"),
    ],
)
def test_what_fails_is_named(runner: PageRunner, block: str, expected: str) -> None:
    (runner.folder / ".venv").symlink_to(sys.prefix)
    with pytest.raises(AssertionError, match=expected.replace("|", r"\|")):
        runner.run_blocks(parse_blocks(block))


def test_trainings_of_pages_are_small() -> None:
    assert small_settings(".venv/bin/python train.py -m seed=0,1") == (
        ".venv/bin/python train.py -m experiment=debug data=tables data.root=shop seed=0,1"
    )
    line = (
        ".venv/bin/python train.py --config-dir c experiment=[debug,fast_dev_run] data=tables data.root=shop"
    )
    assert small_settings(line) == line
    assert small_settings("x/train.py experiment=quick data=warehouse") == (
        "x/train.py experiment=[quick,debug] data=warehouse"
    )
    assert small_settings("make shop && echo done") == "make -n shop && echo done"
