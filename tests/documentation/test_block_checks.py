"""The checks of blocks find what is wrong, and pass what is right."""

from pathlib import Path

import pytest

from tests.documentation.blocks import Block, parse_blocks, shell_statements
from tests.documentation.page_checks import form_problems
from tests.documentation.shell_checks import shell_problems
from tests.documentation.shell_words import simple_commands
from tests.documentation.snippet_checks import snippet_problems

PAGE = """Text.

```bash
cp a b  # c
curl -d '{
  "a": 1}' x
cat > f <<END
a 'b
END
```

<!-- not run: needs a GPU -->
```bash
echo <NAME>
```

1. In a list:

   ```yaml
   # @package _global_
   # my_configs/a/b.yaml
   c: 1
   ```

<!-- excerpt -->
```toml
d = 1
```
"""


def problems_of(text: str, folder: Path, language: str = "bash", reason: str | None = None) -> list[str]:
    block = Block(language, text, 1, reason=reason)
    if language == "bash":
        return list(shell_problems(block, folder, {}))
    return list(snippet_problems(block, folder))


def test_blocks_have_their_language_lines_path_and_marker() -> None:
    shell, not_run, config, excerpt = parse_blocks(PAGE)
    assert (shell.language, shell.line, shell.is_run) == ("bash", 4, True)
    assert [(each.text.split()[0], each.line) for each in shell_statements(shell)] == [
        ("cp", 4), ("curl", 5), ("cat", 7),
    ]  # fmt: skip
    assert (not_run.reason, not_run.is_run) == ("needs a GPU", False)
    assert (config.path, config.text.splitlines()[2]) == ("my_configs/a/b.yaml", "c: 1")
    assert (excerpt.is_excerpt, excerpt.is_run) == (True, False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("```\na\n```\n", "line 1: unknown language ''"),
        ("<!-- not run: why not -->\n```bash\na\n```\n", "line 1: not run: 'why not' is none of"),
        ("```bash\n$ a\n```\n", "line 2: a prompt"),
        ("```python\nimport a\n# b.py\n```\n", "line 2: the path of a file"),
    ],
)
def test_unknown_forms_are_named(text: str, expected: str) -> None:
    (problem,) = form_problems(parse_blocks(text))
    assert problem.startswith(expected)


def test_statements_are_taken_apart() -> None:
    text = "A=1 make x 2> log && B=$(readlink c) && [ -d \"$B\" ] || grep -q '#1' f | wc -l  # count"
    words = [command.words for command in simple_commands(text, {"B": "d e"})]
    assert words == [
        ["make", "x"], ["readlink", "c"], [], ["[", "-d", "d e", "]"], ["grep", "-q", "#1", "f"],
        ["wc", "-l"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("sextet serve --bundel b", "unrecognized arguments: --bundel b"),
        (".venv/bin/python -m serving serve --port 99999", "--port 0 to 65535"),
        ("SEXTET_DEADLINE_M=80 sextet serve", "SEXTET_DEADLINE_M is not an option"),
        (".venv/bin/python train.py ranker.train.epoch=1", "no such key"),
        (".venv/bin/python train.py -m experiment=debug,quik", "unknown choice of experiment"),
        (".venv/bin/python export.py update --bundle b --item c", "unrecognized arguments: --item c"),
        (".venv/bin/python -m experimentation plan --events e --day $DAY", "unknown options: --day"),
        (".venv/bin/python -m benchmarks.serving measure a b", "unrecognized arguments: b"),
        (".venv/bin/python -m benchmarks.gone", "there is no module benchmarks.gone"),
        (".venv/bin/python gone.py", "there is no script gone.py"),
        ("make shpo", "unknown targets ['shpo']"),
        ("python train.py", "unknown program python"),
        ("curl -f localhost:8000/v1/recommendation", "there is no route /v1/recommendation"),
        ("curl -f -X DELETE localhost:8000/v1/recommendations", "takes no DELETE"),
        ("curl -f localhost:8000/v1/recommendations -d '{a: 1}'", "the body is no JSON"),
        ("curl -f localhost:8000/v1/feedback -d '{\"user_id\": 1}'", "the body does not fit"),
        ("curl localhost:8000/readyz", "give -f or --fail-with-body"),
        ("echo 'a", "unexpected EOF"),
        ("sextet serve --bundle <BUNDLE>", "placeholder <BUNDLE>"),
    ],
)
def test_wrong_lines_are_named(line: str, expected: str, tmp_path: Path) -> None:
    (problem,) = problems_of(line, tmp_path)
    assert expected in problem


@pytest.mark.parametrize(
    "line",
    [
        "docker run --rm sextet --bundle /b --worker 2",
        "kubectl exec deploy/sextet -- sextet rolback",
        "ssh host /srv/.venv/bin/python train.py seeed=1",
    ],
)
def test_own_commands_inside_others_are_checked_too(line: str, tmp_path: Path) -> None:
    assert len(problems_of(line, tmp_path, reason="needs a cluster")) == 1
    assert len(problems_of("docker run --rm sextet --bundle /b", tmp_path, reason="needs a cluster")) == 0


def test_a_folder_that_a_command_makes_is_no_problem(tmp_path: Path) -> None:
    assert (
        problems_of("mkdir events\nsextet forget U1 --log events --store s.db --bundle bundle", tmp_path)
        == []
    )


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("python", "from sextet import Recommendr", "sextet has no Recommendr"),
        ("python", "import serving.gone", "No module named 'serving.gone'"),
        ("python", "a = (", "was never closed"),
        ("python", "compose_config('train', ['sed=1'])", "sed: no such key"),
        ("yaml", "a: [", "yaml:"),
        ("toml", "a = ", "toml:"),
        ("toml", "[rules.a]\nhide = 1", "toml:"),
        ("toml", "salt = 's'\n[experiments.a]\nlayer = 1", "toml:"),
        ("sql", "SELEC 1", "sql:"),
        ("json", "{a: 1}", "json:"),
    ],
)
def test_wrong_snippets_are_named(language: str, text: str, expected: str, tmp_path: Path) -> None:
    (problem,) = problems_of(text, tmp_path, language)
    assert expected in problem
