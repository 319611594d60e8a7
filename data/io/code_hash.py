"""A hash of the code that a stage runs: its modules and all modules that they import.

    code_hash(["training.retrieval_stage"]) → changes with any statement of these modules

Comments, docstrings, formatting and modules that are not imported do not count. Versions of the libraries
that compute results count.
"""

import ast
import hashlib
import re
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DOTTED_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")

# Top-level module → the distributions that compute with it.
RESULT_LIBRARIES = {
    "faiss": ("faiss-cpu",),
    "ibis": ("ibis-framework", "duckdb"),
    "numpy": ("numpy",),
    "pyarrow": ("pyarrow",),
    "pyspark": ("pyspark",),
    "pytorch_lightning": ("pytorch-lightning",),
    "scipy": ("scipy",),
    "torch": ("torch",),
    "torchrec": ("torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu"),
}


def code_hash(modules: Iterable[str], root: Path = ROOT) -> str:
    """A hash of `modules`, of all modules that they import below `root`, and of their libraries' versions.

    A module outside `root`, such as a user's network, counts together with the modules that it imports from
    the same package.
    """
    files, libraries = module_closure(modules, root)
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(files):
        digest.update(f"{name} {_statements(files[name].read_text())}\n".encode())
    for library in sorted(libraries & RESULT_LIBRARIES.keys()):
        digest.update(f"{[_version(name) for name in RESULT_LIBRARIES[library]]}\n".encode())
    return digest.hexdigest()


def module_closure(modules: Iterable[str], root: Path = ROOT) -> tuple[dict[str, Path], set[str]]:
    """Returns module → file, for `modules` and all modules that they import.

    Also returns the top-level names of the libraries that they import.

    Raises ModuleNotFoundError for one of `modules` that does not exist.
    """
    modules = list(modules)
    roots = {name.partition(".")[0]: _package_root(name, root) for name in modules}
    files: dict[str, Path] = {}
    libraries: set[str] = set()
    waiting = [(name, True) for name in modules]
    while waiting:
        name, is_module = waiting.pop()
        if name in files:
            continue
        top = name.partition(".")[0]
        if top in RESULT_LIBRARIES:  # for a library, the version counts
            libraries.add(top)
            continue
        file = _module_file(roots.get(top, root), name)
        if file is None:
            if is_module and not (roots.get(top, root) / top).is_dir():
                libraries.add(top)
            continue
        files[name] = file
        waiting += _imports(file.read_text(), name, file.name == "__init__.py")
        if "." in name:
            waiting.append((name.rpartition(".")[0], True))  # an import runs the __init__ of packages
    return files, libraries


def named_modules(*settings: Any) -> list[str]:
    """The modules of the classes and functions that plain settings name by a dotted path, at any depth."""
    modules: set[str] = set()

    def collect(node: Any) -> None:
        if isinstance(node, dict):
            collect(list(node.values()))
        elif isinstance(node, list | tuple):
            for value in node:
                collect(value)
        elif isinstance(node, str) and DOTTED_PATH.fullmatch(node) and (module := _module_of(node)):
            modules.add(module)

    collect(list(settings))
    return sorted(modules)


def _module_of(path: str) -> str | None:
    """The module of a dotted class or function. None if no module of that name exists."""
    try:
        root = _package_root(path, ROOT)
    except (ModuleNotFoundError, ValueError):
        return None
    parts = path.split(".")
    names = (".".join(parts[:length]) for length in range(len(parts) - 1, 0, -1))
    return next((name for name in names if _module_file(root, name)), None)


def _package_root(name: str, root: Path) -> Path:
    """The folder that holds the top-level package or module of `name`: `root`, or where Python finds it.

    Raises ModuleNotFoundError.
    """
    top = name.partition(".")[0]
    if _module_file(root, top) or (root / top).is_dir():
        return root
    spec = find_spec(top)
    if spec is None:
        raise ModuleNotFoundError(f"no module {name}", name=name)
    if spec.submodule_search_locations:  # a package, with or without __init__.py
        return Path(next(iter(spec.submodule_search_locations))).parent
    return Path(spec.origin or "").parent


def _module_file(root: Path, name: str) -> Path | None:
    path = root.joinpath(*name.split("."))
    for file in (path.with_name(f"{path.name}.py"), path / "__init__.py"):
        if file.is_file():
            return file
    return None


@lru_cache(maxsize=1024)
def _imports(source: str, module: str, is_package: bool) -> list[tuple[str, bool]]:
    """The modules that a source text imports anywhere, and the imported names that may be modules.

    The second value is False if the name may also be a function or class of its module.
    """
    imports: list[tuple[str, bool]] = []
    for node in _runtime_nodes(ast.parse(source)):
        if isinstance(node, ast.Import):
            imports += [(alias.name, True) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute_name(node, module, is_package)
            imports.append((base, True))
            imports += [(f"{base}.{alias.name}", False) for alias in node.names]
    return [(name, known) for name, known in imports if name.partition(".")[0] not in sys.stdlib_module_names]


def _runtime_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below `node`, except those that only type checkers read."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and _is_type_checking(child.test)):
            yield from _runtime_nodes(child)


def _is_type_checking(test: ast.expr) -> bool:
    return getattr(test, "id", getattr(test, "attr", "")) == "TYPE_CHECKING"


def _absolute_name(node: ast.ImportFrom, module: str, is_package: bool) -> str:
    """The absolute name of the module in a `from … import`, resolved against the importing module."""
    if node.level == 0:
        return node.module or ""
    parts = module.split(".")
    parents = parts[: len(parts) - node.level + is_package]
    return ".".join([*parents, *([node.module] if node.module else [])])


@lru_cache(maxsize=1024)
def _statements(source: str) -> str:
    """The statements of a source text, without docstrings, comments and positions."""
    tree = ast.parse(source)
    for node in _nodes_with_statements(tree):
        node.body = [statement for statement in node.body if not _is_docstring(statement)]
    return ast.dump(tree)


def _nodes_with_statements(tree: ast.AST) -> Iterator[Any]:
    scopes = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return (node for node in ast.walk(tree) if isinstance(node, scopes))


def _is_docstring(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


@lru_cache
def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
