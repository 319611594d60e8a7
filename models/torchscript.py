"""Compiles modules to TorchScript.

Outside `serving`, only this file calls `torch.jit`. TorchScript is deprecated in torch and unsupported from
Python 3.14 on. When it is replaced, only this file has to change.
"""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

SOURCE_LINE = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')


class ScriptingError(RuntimeError):
    """TorchScript cannot compile a module.

    The message gives the statement's file and line, and the reason.
    """


def to_torchscript(module: nn.Module) -> torch.jit.ScriptModule:
    """Compiles and freezes a module in evaluation mode: its weights become constants of the graph.

    Raises ScriptingError.
    """
    with _no_deprecation_warnings():
        frozen: torch.jit.ScriptModule = torch.jit.freeze(script(module))
    return frozen


def script(module: nn.Module) -> torch.jit.ScriptModule:
    """Compiles a module to TorchScript. The weights stay parameters. Raises ScriptingError."""
    with _no_deprecation_warnings():
        try:
            scripted: torch.jit.ScriptModule = torch.jit.script(module)
        except Exception as error:  # torch raises classes without a common base
            raise ScriptingError(_statement_and_reason(str(error))) from error
    return scripted


def _statement_and_reason(message: str) -> str:
    """Extracts `networks.py, line 12: reason` from a message of TorchScript.

    TorchScript gives the reason first, then the statement, then the calls that led to it.
    """
    reason, _, _ = message.strip().partition("\n  File ")
    reason = " ".join(line.strip() for line in reason.splitlines() if line.strip()).rstrip(":. ")
    source = SOURCE_LINE.search(message)
    return f"{source['file']}, line {source['line']}: {reason}" if source else reason


@contextmanager
def _no_deprecation_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit.*", category=DeprecationWarning)
        yield
