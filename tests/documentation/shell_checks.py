"""Shell statements of pages, checked without running them: programs, options, targets of make, routes."""

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from jsonschema import Draft202012Validator

from documentation.reference.http_routes import openapi_document
from tests.documentation.blocks import Block, Statement, shell_statements, syntax_error
from tests.documentation.command_options import environment_variables, python_problem, serving_problem
from tests.documentation.shell_words import PLACEHOLDER, simple_commands, without_placeholders
from tests.end_to_end.commands import ROOT

PYTHON = ".venv/bin/python"
TOOLS = (
    "[", "awk", "cat", "cd", "chmod", "cp", "curl", "cut", "date", "df", "diff", "du", "echo", "find",
    "git", "grep", "gunzip", "gzip", "head", "kill", "ls", "ln", "make", "mkdir", "mktemp", "mv", "openssl",
    "printf", "pwd", "readlink", "rm", "rmdir", "sed", "set", "sleep", "sort", "source", "split", "stat",
    "tail", "tar", "tee", "test", "touch", "tr", "true", "uniq", "unset", "unzip", "wait", "wc", "xargs",
)  # fmt: skip
TOOLS_ELSEWHERE = (
    "apt-get", "aws", "az", "conda", "createdb", "docker", "dvc", "gcloud", "gsutil", "helm", "journalctl",
    "kubectl", "mail", "minikube", "mlflow", "nginx", "nvidia-smi", "pip", "podman", "psql", "python",
    "python3", "python3.11", "redis-cli", "redis-server", "rsync", "scp", "snakeviz", "ssh", "systemctl",
    "tensorboard", "useradd", "uv", "valkey-cli", "valkey-server",
    "promtool", "spark-submit",
)  # fmt: skip
LOCAL_HOSTS = ("localhost", "127.0.0.1")
OTHER_ROUTES = ("/docs", "/openapi.json", "/redoc")
FAILING_CURL = re.compile(
    r"-\w*[fiw]\w*|--(fail|fail-with-body|include|write-out)"
)  # or the status is printed
BODY_OPTIONS = ("-d", "--data", "--data-binary", "--data-raw", "--json", "-F")


def shell_problems(block: Block, folder: Path, variables: dict[str, str]) -> Iterator[str]:
    """What is wrong with the statements of a shell block, each with its line.

    Args:
        folder: with the files of the page so far.
        variables: of the page so far; those of the block are added.
    """
    for statement in shell_statements(block):
        for problem in _statement_problems(statement, block, folder, variables):
            yield f"line {statement.line}: {problem}: {statement.text.strip()}"


def _statement_problems(
    statement: Statement, block: Block, folder: Path, variables: dict[str, str]
) -> Iterator[str]:
    text = statement.text
    if block.is_run and PLACEHOLDER.search(text):
        yield f"placeholder {PLACEHOLDER.search(text)[0]} in a block that is run"  # type: ignore[index]
    text = without_placeholders(text)
    if error := syntax_error(text):
        yield error.splitlines()[0]
        return
    for command in simple_commands(text, variables):
        if not command.words:
            variables |= command.variables
            continue
        with environment_variables({**variables, **command.variables}):
            problem = command_problem(command.words, folder, block.is_run)
        if problem:
            yield problem


def command_problem(words: Sequence[str], folder: Path, is_run: bool) -> str | None:
    """What is wrong with a command; None if nothing is."""
    program, arguments = words[0], list(words[1:])
    if program in (PYTHON, "$SEXTET/.venv/bin/python"):
        return python_problem(arguments, folder)
    if program in ("sextet", ".venv/bin/sextet") or program.endswith("/bin/sextet"):
        return serving_problem(arguments)
    if program == ".venv/bin/torchrun":
        script = next((n for n, word in enumerate(arguments) if word.endswith(".py") or word == "-m"), None)
        return python_problem(arguments[script:], folder) if script is not None else "there is no script"
    if program == "make":
        return _make_problem(arguments)
    if program == "curl":
        return _curl_problem(arguments, is_run)
    if program.startswith(".venv/bin/"):
        return None if (ROOT / program).exists() else f"there is no {program}"
    if program in TOOLS or program.startswith(("./", "$")):
        return None
    if is_run or Path(program).name not in TOOLS_ELSEWHERE:
        return f"unknown program {program}"
    return _inner_problem(words, folder)


def _inner_problem(words: Sequence[str], folder: Path) -> str | None:
    """What is wrong with a command of ours inside another: in a container, through ssh, by another python."""
    for n, word in enumerate(words):
        tail = list(words[n + 1 :])
        if word in ("python", "python3", "python3.11") or word.endswith("/bin/python"):
            is_ours = tail[:1] in (["train.py"], ["export.py"], ["retrain.py"], ["demo.py"]) or tail[1:2] in (
                ["serving"], ["sextet"], ["operations.monitoring"], ["experimentation"]
            )  # fmt: skip
            return python_problem(tail, folder) if is_ours else None
        if word == "sextet" and n and words[0] in ("docker", "podman") and words[1] == "run" and tail:
            return serving_problem(["serve", *tail])  # the entry point of deploy/Dockerfile
        if n and (word == "sextet" or word.endswith("/bin/sextet")) and words[n - 1] == "--":
            return serving_problem(tail)
    return None


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))


def _make_problem(arguments: Sequence[str]) -> str | None:
    targets = [word for word in arguments if "=" not in word and not word.startswith("-")]
    unknown = [word for word in targets if word not in make_targets()]
    return f"unknown targets {unknown}" if unknown else None


def _curl_problem(arguments: Sequence[str], is_run: bool) -> str | None:
    """What is wrong with a request to a service of this machine: its route, method or JSON."""
    url = next((word for word in arguments if word.partition(":")[0] in LOCAL_HOSTS or "://" in word), None)
    if url is None:
        return None if any("$" in word for word in arguments) else "there is no URL"
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.hostname not in LOCAL_HOSTS or (parts.port != 8000 and not parts.path.startswith("/v1/")):
        return None
    if is_run and not any(FAILING_CURL.fullmatch(word) for word in arguments):
        return "an error of the service passes: give -f or --fail-with-body"
    options = list(itertools.pairwise(arguments))
    body = next((value for option, value in options if option in BODY_OPTIONS), None)
    method = next((value for option, value in options if option in ("-X", "--request")), None)
    return _request_problem((method or ("POST" if body is not None else "GET")).lower(), parts.path, body)


def _request_problem(method: str, path: str, body: str | None) -> str | None:
    """What is wrong with a request, by the OpenAPI document of the service."""
    document = openapi_document()
    if path in OTHER_ROUTES:
        return None
    fitting = [
        operations
        for route, operations in document["paths"].items()
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", route), path)
    ]
    if not fitting:
        return f"there is no route {path}"
    if method not in fitting[0]:
        return f"{path} takes no {method.upper()}"
    if body is None or body.startswith("@") or "$" in body:
        return None
    try:
        content = json.loads(body)
    except ValueError as error:
        return f"the body is no JSON: {error}"
    if "requestBody" not in fitting[0][method]:
        return f"{path} takes no body"
    schema = fitting[0][method]["requestBody"]["content"]["application/json"]["schema"]
    validator = Draft202012Validator({**schema, "components": document["components"]})
    errors = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(content)]
    return f"the body does not fit: {errors[0]}" if errors else None
