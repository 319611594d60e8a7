"""Shell statements taken apart: simple commands with their words, variables and placeholders."""

import re
import shlex
from typing import NamedTuple

HEREDOC = re.compile(r"<<-?\s*(['\"]?)(\w+)\1")
COMMENT = re.compile(r"""('[^']*'|"(?:\\.|[^"\\])*")|(?:^|(?<=\s))#[^\n]*""")
VARIABLE = re.compile(r"('[^']*')|\$\{?(\w+)\}?")
PLACEHOLDER = re.compile(r"<([A-Za-z][\w .-]*)>(?!\()")
PLAIN_VALUE = re.compile(r"[\w./:=,@ \[\]{}+-]*")
ASSIGNMENT = re.compile(r"(\w+)=(.*)", re.DOTALL)
PREFIX_WORDS = (
    "if",
    "then",
    "else",
    "elif",
    "do",
    "while",
    "until",
    "!",
    "time",
    "exec",
    "{",
    "sudo",
    "nohup",
)
WORDS_WITHOUT_COMMAND = ("for", "done", "fi", "}", "esac", "case")
UNKNOWN_VALUE = "$"  # in a word whose value the shell finds out


class SimpleCommand(NamedTuple):
    """A program with its arguments, and the variables set before it."""

    words: list[str]  # empty for assignments alone
    variables: dict[str, str]


def without_placeholders(text: str) -> str:
    """The text with <NAME> as a variable of that name, which bash can parse."""
    return PLACEHOLDER.sub(lambda match: "$" + re.sub(r"\W", "_", match[1]), text)


def simple_commands(statement: str, known: dict[str, str] | None = None) -> list[SimpleCommand]:
    """The simple commands of a statement; those of $(…) outside double quotes, too.

    Args:
        known: values of variables. A word with another variable keeps its `$`.
    """
    text = COMMENT.sub(lambda match: match[1] or "", _without_heredocs(statement).replace("\\\n", " "))
    text = VARIABLE.sub(lambda match: match[1] or _value(match, known or {}), text)
    lexer = shlex.shlex(text, posix=True, punctuation_chars="();<>|&\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t\r", True, ""
    commands: list[SimpleCommand] = []
    stack: list[list[str]] = [[]]
    tokens = iter(lexer)
    for token in tokens:
        if not set(token) <= set("();<>|&\n") or not token:
            stack[-1].append(token)
        elif "<" in token or ">" in token:
            if stack[-1] and stack[-1][-1].isdigit():
                stack[-1].pop()
            next(tokens, None)  # the file
        elif token.startswith("(") and stack[-1] and stack[-1][-1].endswith("$"):
            stack.append([])
        elif token.startswith(")") and len(stack) > 1:
            _add(commands, stack.pop())
            if token != ")":
                _add(commands, stack[-1])
                stack[-1] = []
        else:
            _add(commands, stack[-1])
            stack[-1] = []
    for words in stack:
        _add(commands, words)
    return commands


def _value(match: re.Match[str], known: dict[str, str]) -> str:
    """The value of a variable as the shell puts it in; the variable itself if that is not known."""
    value = known.get(match[2], UNKNOWN_VALUE)
    return value if PLAIN_VALUE.fullmatch(value) else match[0]


def _without_heredocs(text: str) -> str:
    match = HEREDOC.search(text)
    if match is None:
        return text
    head, _, body = text.partition("\n")
    parts = re.split(rf"^\s*{match[2]}$", body, maxsplit=1, flags=re.MULTILINE)
    return head + "\n" + (_without_heredocs(parts[1]) if len(parts) > 1 else "")


def _add(commands: list[SimpleCommand], words: list[str]) -> None:
    """Add a command without its assignments and the words of the shell's language."""
    words, variables = list(words), {}
    while words and (words[0] in (*PREFIX_WORDS, "export", "env") or ASSIGNMENT.fullmatch(words[0])):
        match = ASSIGNMENT.fullmatch(words.pop(0))
        if match:
            variables[match[1]] = match[2]
    if words and words[0] in WORDS_WITHOUT_COMMAND:
        words = []
    if words or variables:
        commands.append(SimpleCommand(words, variables))
