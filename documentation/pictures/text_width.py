"""An upper bound of a text's width.

It uses the letter widths of DejaVu Sans, the widest of the usual system fonts.
"""

BOLD_FACTOR = 1.15
OTHER_CHARACTER = 100  # hundredths of the font size
WIDTHS = {  # hundredths of the font size → characters
    30: "'IJijl", 35: " ,./:;\\|·", 40: "()-[]ft", 45: "!r", 50: '"*_`–', 55: "?csz", 60: "FLkvxy",
    65: "$0123456789EPSTYabdeghnopqu{}Σ", 70: "ABCKRVXZ", 75: "NU", 80: "&DGHOQ", 85: "#+<=>^w~→←↓↑≥≤−×∞≈",
    90: "M",
}  # fmt: skip
WIDTH_OF_CHARACTER = {character: width for width, characters in WIDTHS.items() for character in characters}


def text_width(text: str, font_size: float, is_bold: bool = False) -> float:
    """The largest width of a line of text, in pixels."""
    units = sum(WIDTH_OF_CHARACTER.get(character, OTHER_CHARACTER) for character in text)
    return units / 100 * font_size * (BOLD_FACTOR if is_bold else 1.0)
