"""Colours of the pictures in light and in dark mode, by the names of their CSS variables.

Text is `ink` or `soft`, on `paper` or one of FILLS. MARKS are lines, dots and bars on `paper`.
"""

FILLS = ("plain", "model", "data", "alarm")  # of boxes: a step, a model, stored data, a fault
MARKS = ("line", "mark", "second", "third")
TEXTS = ("ink", "soft")
Palette = dict[str, str]  # name → #rrggbb

LIGHT: Palette = {
    "paper": "#ffffff", "ink": "#1c2530", "soft": "#47525f", "line": "#6f7c8a", "grid": "#dfe4e9",
    "plain": "#eef1f4", "model": "#d5edea", "data": "#fbeccd", "alarm": "#fbdedb",
    "mark": "#0b7d70", "second": "#b4500b", "third": "#5458c4", "band": "#cfe6e3",
}  # fmt: skip
DARK: Palette = {
    "paper": "#1e2129", "ink": "#e8edf2", "soft": "#b6c0cb", "line": "#8e9aa7", "grid": "#3a424c",
    "plain": "#2d353e", "model": "#17453f", "data": "#4a3a17", "alarm": "#55282a",
    "mark": "#4cc2b3", "second": "#f0a35e", "third": "#a9acf7", "band": "#1f4a46",
}  # fmt: skip


def contrast(first: str, second: str) -> float:
    """The contrast ratio of two colours (#rrggbb), from 1 to 21 (WCAG 2.2, section 1.4.3)."""
    low, high = sorted((_luminance(first), _luminance(second)))
    return (high + 0.05) / (low + 0.05)


def variables(palette: Palette) -> str:
    """The palette as declarations of CSS variables."""
    return " ".join(f"--{name}: {colour};" for name, colour in palette.items())


def _luminance(colour: str) -> float:
    red, green, blue = (_linear(int(colour[k : k + 2], 16) / 255) for k in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else float(((value + 0.055) / 1.055) ** 2.4)
