"""Elements of an inline SVG; colours come from the classes of style.css."""

from collections.abc import Iterable, Mapping

from markupsafe import Markup

Colour = str  # blue, orange, grey, green, violet or pink
LETTER_WIDTH = 7.0  # mean width of a letter of 12 px in a wide font


def svg_element(width: int, height: int, name: str, elements: Iterable[Markup]) -> Markup:
    attributes = {
        "viewBox": f"0 0 {width} {height}", "style": f"--width:{width}px", "role": "img", "aria-label": name
    }  # fmt: skip
    return tag("svg", attributes, Markup("").join(elements))


def dot(x: float, y: float, colour: Colour, tip: str, radius: float) -> Markup:
    return tag("circle", {"class": colour, "cx": x, "cy": y, "r": f"{radius:g}"}, tag("title", {}, tip))


def path(css_class: str, d: str) -> Markup:
    return tag("path", {"class": css_class, "d": d})


def text(
    x: float, y: float, content: str, css_class: str, anchor: str, attributes: Mapping[str, str] | None = None
) -> Markup:
    place = {"class": css_class, "x": float(x), "y": float(y), "text-anchor": anchor}
    return tag("text", place | dict(attributes or {}), content)


def tag(name: str, attributes: Mapping[str, object], content: str = "") -> Markup:
    """An element with escaped attributes and content; floats have one digit."""
    pairs = Markup("").join(
        Markup(' {}="{}"').format(key, f"{value:.1f}" if isinstance(value, float) else value)
        for key, value in attributes.items()
    )
    if not content:
        return Markup("<{}{}/>").format(name, pairs)
    return Markup("<{0}{1}>{2}</{0}>").format(name, pairs, content)


def join_points(pixels: Iterable[tuple[float, float]]) -> str:
    return "L".join(f"{x:.1f} {y:.1f}" for x, y in pixels)
