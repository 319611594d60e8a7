"""The grammar of objectives. Parses text to a tree of plain JSON, and writes a tree as text.

    sum      = product {("+" | "-") product}
    product  = unary {("*" | "/") unary}
    unary    = ("+" | "-") unary | power
    power    = atom ["**" unary]                    binds tighter than a sign before it, and to the right
    atom     = number | name | function "(" sum {"," sum} ")" | "(" sum ")"

`−`, `×` and `÷` stand for `-`, `*` and `/`. A name may be a word of Python, such as `return`.

A tree is a number, a name, or a list of an operator and its arguments: `purchase * (1 - return)` is
`["*", "purchase", ["-", 1.0, "return"]]`, and `-x` is `["-", "x"]`.
"""

import math
import re
from functools import lru_cache
from typing import NamedTuple, TypeAlias

Tree: TypeAlias = "float | str | list[Tree]"  # a list begins with its operator

FUNCTIONS = {"min": (2, 9), "max": (2, 9), "log": (1, 1), "exp": (1, 1)}  # fewest and most arguments
MAX_TOKENS = 200  # bounds the depth of a tree, which is read by recursion
SIGNS = {"−": "-", "×": "*", "÷": "/"}
TOKEN = re.compile(
    r"(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<name>[^\W\d]\w*)|(?P<sign>\*\*|[-+*/(),−×÷])"
)
HINTS = {"^": "write ** for a power", "%": "write / 100", "=": "comparisons are not part of the grammar"}
SUM, PRODUCT, UNARY, POWER, ATOM = range(5)  # how tightly an operator binds


class Token(NamedTuple):
    """A token of an expression; kind is number, name, sign or end."""

    kind: str
    text: str
    position: int  # from 1


def parse_objective(text: str) -> Tree:
    """The tree of an expression. Raises ValueError, with the position, for text outside the grammar."""
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"objective {text!r}: expected an expression such as purchase * value")
    return _parse(text)


@lru_cache(256)
def _parse(text: str) -> Tree:
    return _Parser(text).parse()


def objective_text(tree: Tree) -> str:
    """The expression of a tree, with the fewest parentheses. `parse_objective` inverts it."""
    return _text(tree)[0]


def objective_names(tree: Tree) -> list[str]:
    """The names of tasks and item columns in a tree, each once, in order of appearance."""
    if isinstance(tree, str):
        return [tree]
    if not isinstance(tree, list):
        return []
    return list(dict.fromkeys(name for argument in tree[1:] for name in objective_names(argument)))


class _Parser:
    def __init__(self, text: str) -> None:
        self.text, self.index = text, 0
        self.tokens = _tokens(text)

    def parse(self) -> Tree:
        tree = self._sum()
        if self._next.kind != "end":
            raise self._error(f"unexpected {self._next.text}", "remove it, or put an operator before it")
        return tree

    def _sum(self) -> Tree:
        tree = self._product()
        while sign := self._take("+", "-"):
            tree = [sign, tree, self._product()]
        return tree

    def _product(self) -> Tree:
        tree = self._unary()
        while sign := self._take("*", "/"):
            tree = [sign, tree, self._unary()]
        return tree

    def _unary(self) -> Tree:
        if sign := self._take("+", "-"):
            argument = self._unary()
            return ["-", argument] if sign == "-" else argument
        base = self._atom()
        return ["**", base, self._unary()] if self._take("**") else base

    def _atom(self) -> Tree:
        token = self._next
        if token.kind == "end":
            raise self._error("the expression ends where a number or name must follow", "complete it")
        self.index += 1
        if token.kind == "number":
            if not math.isfinite(number := float(token.text)):
                self.index -= 1
                raise self._error(f"{token.text} is too large a number", "write a smaller one")
            return number
        if token.kind == "name":
            return self._call(token) if self._take("(") else token.text
        if token.text != "(":
            self.index -= 1
            raise self._error(f"unexpected {token.text}", "put a number or name before it")
        tree = self._sum()
        self._close(token)
        return tree

    def _call(self, function: Token) -> Tree:
        if function.text not in FUNCTIONS:
            self.index -= 2
            raise self._error(
                f"unknown function {function.text}", f"use {', '.join(FUNCTIONS)}; write * for a product"
            )
        opening, arguments = self.tokens[self.index - 1], [self._sum()]
        while self._take(","):
            arguments.append(self._sum())
        self._close(opening)
        fewest, most = FUNCTIONS[function.text]
        if not fewest <= len(arguments) <= most:
            expected = str(fewest) if fewest == most else f"{fewest} to {most}"
            self.index = self.tokens.index(function)
            raise self._error(
                f"{function.text} has {len(arguments)} argument{'s' * (len(arguments) != 1)}",
                f"give {function.text} {expected}, separated by commas",
            )
        return [function.text, *arguments]

    def _close(self, opening: Token) -> None:
        if not self._take(")"):
            token = self._next
            read = "the end" if token.kind == "end" else token.text
            raise self._error(
                f"found {read}, expected ) to close the ( of position {opening.position}",
                "add the missing ), or put an operator before what follows",
            )

    @property
    def _next(self) -> Token:
        return self.tokens[self.index]

    def _take(self, *signs: str) -> str | None:
        """Read the next token if it is one of `signs`. Returns the token's text, else None."""
        token = self._next
        if token.kind != "sign" or token.text not in signs:
            return None
        self.index += 1
        return token.text

    def _error(self, problem: str, remedy: str) -> ValueError:
        return _syntax_error(self.text, self._next.position, problem, remedy)


def _tokens(text: str) -> list[Token]:
    tokens: list[Token] = []
    start = 0
    while start < len(text):
        if text[start].isspace():
            start += 1
            continue
        match = TOKEN.match(text, start)
        if match is None:
            hint = HINTS.get(text[start], "see the grammar in docs/reference/objective.md")
            raise _syntax_error(text, start + 1, f"unexpected {text[start]!r}", hint)
        word = match.group()
        tokens.append(Token(str(match.lastgroup), SIGNS.get(word, word), start + 1))
        start = match.end()
    if len(tokens) > MAX_TOKENS:
        raise ValueError(
            f"objective of {len(tokens)} words and signs: the maximum is {MAX_TOKENS}. To do: shorten it"
        )
    return [*tokens, Token("end", "", len(text) + 1)]


def _syntax_error(text: str, position: int, problem: str, remedy: str) -> ValueError:
    return ValueError(f"objective {text!r}, position {position}: {problem}. To do: {remedy}")


def _text(tree: Tree) -> tuple[str, int]:
    """The expression of a tree, and how tightly its outermost operator binds."""
    if isinstance(tree, str):
        return tree, ATOM
    if not isinstance(tree, list):
        number = repr(float(tree))
        return number.removesuffix(".0"), UNARY if number.startswith("-") else ATOM
    operator, *arguments = tree
    if operator in FUNCTIONS:
        return f"{operator}({', '.join(_text(argument)[0] for argument in arguments)})", ATOM
    if len(arguments) == 1:
        return f"-{_within(arguments[0], UNARY)}", UNARY
    left, right = arguments
    if operator == "**":
        return f"{_within(left, ATOM)} ** {_within(right, UNARY)}", POWER
    level = SUM if operator in ("+", "-") else PRODUCT
    return f"{_within(left, level)} {operator} {_within(right, level + 1)}", level


def _within(tree: Tree, level: int) -> str:
    """The expression of a tree, in parentheses if it binds less tightly than `level`."""
    text, own_level = _text(tree)
    return text if own_level >= level else f"({text})"
