"""The pictures: files as the command draws them, texts in their places, colours that one can read."""

import re
from itertools import combinations

import pytest

from documentation.markdown import DOCS
from documentation.pictures.chart_data import calibration_rows, frontier_rows, loop_rows, read_data
from documentation.pictures.colours import DARK, FILLS, LIGHT, MARKS, TEXTS, Palette, contrast
from documentation.pictures.drawing import STYLE, WIDTH, Box, Drawing, Point
from documentation.pictures.drawings import CHARTS, DRAWINGS
from documentation.pictures.plot import linear_axis
from documentation.pictures.system import ROOMS, read_layers
from documentation.pictures.text_width import text_width

MIN_TEXT_CONTRAST, MIN_MARK_CONTRAST = 4.5, 3.0  # WCAG 2.2, sections 1.4.3 and 1.4.11
FRAME_MARGIN = 3  # pixels between a text and the picture's edge


def overlaps(first: Box, second: Box) -> bool:
    width = min(first.x + first.width, second.x + second.width) - max(first.x, second.x)
    height = min(first.y + first.height, second.y + second.height) - max(first.y, second.y)
    return width > 0.5 and height > 0.5


def contains(outer: Box, inner: Box) -> bool:
    return (
        inner.x >= outer.x
        and inner.y >= outer.y
        and inner.x + inner.width <= outer.x + outer.width
        and inner.y + inner.height <= outer.y + outer.height
    )


def crosses(start: Point, end: Point, area: Box) -> bool:
    """Whether a segment meets an area (Liang and Barsky 1984)."""
    entry, leaving = 0.0, 1.0
    dx, dy = end[0] - start[0], end[1] - start[1]
    for step, room in (
        (-dx, start[0] - area.x),
        (dx, area.x + area.width - start[0]),
        (-dy, start[1] - area.y),
        (dy, area.y + area.height - start[1]),
    ):
        if step == 0:
            if room < 0:
                return False
        elif step < 0:
            entry = max(entry, room / step)
        else:
            leaving = min(leaving, room / step)
    return entry < leaving


def problems(drawing: Drawing) -> list[str]:
    """Texts that leave the picture or a box, cover another text, or lie on a line."""
    margin = FRAME_MARGIN
    frame = Box(margin, margin, WIDTH - 2 * margin, drawing.height - 2 * margin)
    texts = drawing.texts
    outside = [f"{text}: outside" for text, area in texts if not contains(frame, area)]
    covered = [
        f"{first.text} | {second.text}: overlap"
        for first, second in combinations(texts, 2)
        if overlaps(first.area, second.area)
    ]
    cut = [
        f"{text}: cut by {box}"
        for text, area in texts
        for box in drawing.boxes
        if overlaps(area, box) and not contains(box, area)
    ]
    crossed = [
        f"{text}: crossed by {segment}"
        for text, area in texts
        for segment in drawing.segments
        if crosses(*segment, area)
    ]
    return outside + covered + cut + crossed


@pytest.mark.parametrize("name", DRAWINGS)
def test_pictures_are_as_the_command_draws_them(name: str) -> None:
    assert (DOCS / "pictures" / f"{name}.svg").read_text() == DRAWINGS[name]().svg()
    assert f"({name}.svg)" in (DOCS / "pictures" / "index.md").read_text()


def test_every_svg_file_is_drawn_by_the_command() -> None:
    assert {file.stem for file in (DOCS / "pictures").glob("*.svg")} == set(DRAWINGS)


@pytest.mark.parametrize("name", DRAWINGS)
def test_texts_keep_apart_and_inside(name: str) -> None:
    assert problems(DRAWINGS[name]()) == []


def test_misplaced_texts_are_found() -> None:
    drawing = Drawing(100, "a bad picture")
    drawing.text(400, 20, "leaves the picture")
    drawing.box(Box(10, 30, 20, 20), "leaves the box")
    drawing.text(60, 80, "first")
    drawing.text(70, 82, "second")
    drawing.line((200, 0), (200, 100))
    drawing.text(190, 60, "crossed")
    named = "\n".join(problems(drawing))
    for problem in (
        "leaves the picture: outside",
        "leaves the box: cut",
        "first | second: overlap",
        "crossed: crossed",
    ):
        assert problem in named


def test_a_text_is_wider_in_bold_and_with_more_letters() -> None:
    assert text_width("slate", 14) < text_width("slates", 14) < text_width("slates", 14, is_bold=True)
    assert text_width("mmm", 14) > text_width("iii", 14)


def test_the_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_both_modes_are_readable(palette: Palette) -> None:
    for text in TEXTS:
        for ground in ("paper", "band", *FILLS):
            assert contrast(palette[text], palette[ground]) >= MIN_TEXT_CONTRAST, (text, ground)
    for mark in MARKS:
        assert contrast(palette[mark], palette["paper"]) >= MIN_MARK_CONTRAST, mark


def test_both_modes_have_all_colours_of_the_style() -> None:
    used = set(re.findall(r"var\(--([a-z]+)\)", STYLE))
    assert used == set(LIGHT) == set(DARK)


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_names_command_commit_and_machine(name: str) -> None:
    data, texts = read_data(name), " ".join(text for text, _ in CHARTS[name]().texts)
    assert re.match(r"python (-m [a-z_.]+|train\.py)", data["command"])
    assert re.fullmatch(r"[0-9a-f]{7,12}", data["commit"])
    for part in (*data["command"].split(), data["commit"], data["machine"].split(",")[0]):
        assert part in texts


def test_the_code_map_has_the_packages_of_the_import_contract() -> None:
    layers = read_layers()
    assert sorted(room for layer in layers for room in layer) == sorted(ROOMS)
    assert layers[0] == ["documentation"]
    assert "serving" in layers[-1]


def test_ticks_are_round_and_inside_the_axis() -> None:
    axis = linear_axis([0.412, 0.437])
    assert axis.ticks == [0.41, 0.415, 0.42, 0.425, 0.43, 0.435]
    assert axis.labels == ["0.410", "0.415", "0.420", "0.425", "0.430", "0.435"]
    assert linear_axis([0.21, 0.34], percent=True).labels == ["20 %", "25 %", "30 %", "35 %"]


def test_rows_of_a_chart_follow_from_its_report() -> None:
    report = {
        "system": "sextet",
        "frontier": [
            {"system": "sextet", "revenue_weight": 0.5, "ndcg6": 0.4, "revenue6": 9.0},
            {"system": "LightGBM", "revenue_weight": 0.5, "ndcg6": 0.4, "revenue6": 9.0},
        ],
        "leaderboard": [
            {"slice": "all", "system": "popular", "ndcg6": 0.1, "revenue6": 2.0},
            {"slice": "all", "system": "frequent", "ndcg6": 0.38, "revenue6": 8.0},
            {"slice": "new users", "system": "frequent", "ndcg6": 0.38, "revenue6": 8.0},
        ],
        "curves": [
            {"task": "click", "slice": "all", "predicted": [0.1, 0.2], "observed": [0.1, 0.3]},
            {"task": "click", "slice": "bought before", "predicted": [0.5], "observed": [0.5]},
        ],
        "days": [
            {
                "day": 1, "revenue": 3.0, "popularity": 1.0, "rule_policy": 2.0, "oracle": 4.0,
                "labels_shuffled": False, "decision": "published", "seconds": 3,
            }
        ],
    }  # fmt: skip
    assert [row["system"] for row in frontier_rows(report)] == ["Sextet", "frequent"]
    assert calibration_rows(report) == [
        {"task": "click", "predicted": 0.1, "observed": 0.1},
        {"task": "click", "predicted": 0.2, "observed": 0.3},
    ]
    assert loop_rows(report)[0]["revenue"] == 3.0
    assert "seconds" not in loop_rows(report)[0]
