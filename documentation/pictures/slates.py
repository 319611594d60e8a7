"""Pictures of how a slate is made, how the index searches, and how experiments divide users."""

import random
from itertools import pairwise

from documentation.pictures.drawing import WIDTH, Box, Drawing, Point

CENTROIDS = ((70, 74), (170, 60), (272, 80), (374, 66), (64, 186), (168, 178), (276, 190), (376, 180))
QUERY, PROBED = (214, 122), (1, 2, 5, 6)  # lists of the four nearest centroids
POINTS_PER_LIST, SPREAD = 26, 19  # points of a list, their standard deviation in pixels


def draw_slate() -> Drawing:
    """Draw the steps from the catalog to a slate of six items."""
    d = Drawing(520, "Eligible items, sources, 300 candidates, predictions, objective, limits, six items")
    steps = (
        ("Eligible items", ("available, allowed by the rules,", "not just paid, not shown twice"), "data"),
        (
            "Eight sources propose",
            ("nearest vectors, bought before,", "goes with the basket, popular …"),
            "model",
        ),
        ("300 candidates", ("fused by their ranks in the sources",), "data"),
        ("Ranker predicts", ("p(click), p(purchase), spend",), "model"),
        ("Objective", ("p(purchase) × spend: one score",), "plain"),
        ("Limits", ("one pack of a product, category cap,", "diversity, pinned items"), "plain"),
    )
    y, boxes = 14, []
    for title, lines, kind in steps:
        height = 34 + 16 * len(lines)
        boxes.append(d.box(Box(60, y, 320, height), title, lines, kind))
        y += height + 20
    for start, end in pairwise(boxes):
        d.arrow(start.bottom, end.top)
    d.arrow(boxes[-1].bottom, (220, y))
    for n in range(6):
        d.box(Box(60 + 54 * n, y, 50, 34), str(n + 1), kind="data")
    d.text(220, y + 54, "Six items, the highest score first", "soft", "middle")
    d.height = int(y + 68)
    return d


def draw_index() -> Drawing:
    """Draw the index: a search reads the lists of the nearest centroids. Vectors have 8 bits per number."""
    d = Drawing(
        422,
        "Vectors lie in lists around centroids; a query reads the lists of the nearest ones",
        "Search: only the lists of the nearest centroids",
    )
    generator = random.Random(7)
    for number, (x, y) in enumerate(CENTROIDS):
        for point in _points_around((x, y), generator):
            d.dot(*point, "mark" if number in PROBED else "line", 2)
    for number, (x, y) in enumerate(CENTROIDS):
        d.box(Box(x - 6, y - 6, 12, 12), kind="model" if number in PROBED else "plain")
        if number in PROBED:
            d.line(QUERY, (x, y), kind="dashed")
    d.dot(*QUERY, "second", 7)
    legend = ((26, "second", 7, "query"), (110, "mark", 3, "read"), (186, "line", 3, "not read"))
    for x, kind, radius, text in legend:
        d.dot(x, 254, kind, radius)
        d.text(x + 12, 259, text, "soft")
    d.box(Box(290, 248, 12, 12), kind="model")
    d.text(310, 259, "centroid", "soft")
    d.text(10, 298, "Storage: 8 bits for each dimension", "title")
    d.box(Box(10, 312, 420, 30), "", ("64 × 32 bits = 256 bytes",), "plain")
    d.box(Box(10, 362, 136, 30), "", ("64 bytes",), "model")
    d.arrow((78, 342), (78, 362))
    d.text(158, 382, "and 9 bytes for id and lists", "soft")
    d.text(10, 412, "A vector takes 73 bytes in a million items.", "soft")
    return d


def _points_around(centre: Point, generator: random.Random) -> list[Point]:
    points = [
        (centre[0] + generator.gauss(0, SPREAD), centre[1] + generator.gauss(0, SPREAD))
        for _ in range(POINTS_PER_LIST)
    ]
    return [(x, y) for x, y in points if 8 < x < WIDTH - 8 and 34 < y < 236]


def draw_experiment_layers() -> Drawing:
    """Draw how users are assigned to experiments: a holdout, layers, buckets, arms."""
    d = Drawing(400, "Hashes of the user id give a bucket in every layer; a bucket belongs to one experiment")
    user = d.box(Box(130, 12, 180, 40), "user_id", kind="data")
    d.box(Box(10, 84, 84, 52), "Holdout", ("no test",), "alarm")
    d.arrow(user.left, (52, 32), (52, 84))
    d.arrow(user.bottom, (220, 84))
    d.text(232, 76, "a hash for each layer", "soft")
    d.box(Box(104, 84, 326, 52), "All other users", ("1,000 buckets in each layer",), "plain")
    d.text(10, 174, "Layer ranking", "title")
    d.text(430, 174, "salt and layer are hashed", "soft", "end")
    d.box(Box(10, 184, 210, 60), "weight", ("buckets 0–499",), "model")
    d.box(Box(220, 184, 210, 60), "variety", ("buckets 500–999",), "data")
    d.text(10, 278, "Layer explore", "title")
    d.text(430, 278, "independent of the layer ranking", "soft", "end")
    d.box(Box(10, 288, 126, 60), "more", ("buckets 0–299",), "model")
    d.box(Box(136, 288, 294, 60), "no experiment", ("buckets 300–999",), "plain")
    for x, y in ((141, 184), (364, 288)):
        d.dot(x, y, "second", 6)
    d.dot(20, 372, "second", 6)
    d.text(34, 377, "one user: bucket 312 in ranking, 842 in explore", "soft")
    return d
