"""Pictures of the whole system, of the path of a request, and of the packages of the code."""

import tomllib
from itertools import pairwise

from documentation.markdown import ROOT
from documentation.pictures.drawing import Box, Drawing

STAGES = (  # name, meaning, the answer where the stage fails
    ("store", "read the history", "ranked, without the history"),
    ("encode", "make the inputs", "the tier cached"),
    ("query_tower", "make the query vector", "the tier cached"),
    ("index", "find the nearest items", "ranked, from the other sources"),
    ("candidates", "join all sources", "the tier retrieval"),
    ("ranker", "predict", "the tier retrieval"),
    ("slate", "choose six", "the tier retrieval"),
)
TIERS = (
    ("ranked", "six items of the ranker", "model"),
    ("retrieval", "items by inner product with the query", "model"),
    ("cached", "the user's last ranked slate", "data"),
    ("category", "bestsellers of the basket's categories", "plain"),
    ("popularity", "bestsellers of the shop", "plain"),
)
ROOMS = {  # what a room holds
    "documentation": "site, pictures", "benchmarks": "measurements", "storefront": "example shop",
    "experimentation": "A/B tests, uplift", "operations": "retraining, monitors",
    "exporting": "run to bundle", "evaluation": "metrics, baselines", "training": "stages, config, sharding",
    "data": "tables to examples", "models": "networks, no I/O", "serving": "the wheel",
    "simulation": "market", "reporting": "pages, charts",
}  # fmt: skip
LAYERS_CONTRACT = "rooms are layers"


def draw_system() -> Drawing:
    """Draw the system from the shop's tables to a slate, and from its feedback back into the tables."""
    d = Drawing(448, "Tables train models, a bundle serves them, and slates with their clicks are logged")
    d.text(104, 22, "Training", "title", "middle")
    d.text(336, 22, "Serving", "title", "middle")
    steps = (
        ("Tables", ("orders, items,", "users, events"), "data"),
        ("Prepare", ("one row per checkout",), "plain"),
        ("Train", ("two towers, then ranker",), "model"),
        ("Evaluate", ("against baselines",), "plain"),
        ("Export", ("small, verified",), "plain"),
    )
    left = [
        d.box(Box(10, 38 + 82 * n, 188, 60), title, lines, kind)
        for n, (title, lines, kind) in enumerate(steps)
    ]
    for start, end in pairwise(left):
        d.arrow(start.bottom, end.top)
    log = d.box(Box(244, 38, 186, 60), "Impression log", ("slates and clicks",), "data")
    shop = d.box(Box(244, 142, 116, 52), "Shop", ("shows six items",))
    service = d.box(Box(244, 246, 186, 60), "Service", ("answers in 100 ms",), "model")
    store = d.box(Box(334, 328, 96, 42), "Store", ("histories",), "data")
    bundle = d.box(Box(244, 392, 186, 46), "Bundle", ("a version, one folder",), "data")
    d.arrow(log.left, left[0].right)
    d.arrow((280, shop.y + 52), (280, service.y))
    d.text(274, 225, "order", "soft", "end")
    d.arrow((320, service.y), (320, shop.y + 52))
    d.text(328, 225, "slate", "soft")
    d.arrow((404, service.y), (404, log.y + 60))
    d.text(398, 122, "logged", "soft", "end")
    d.arrow((store.x + 48, store.y), (store.x + 48, service.y + 60))
    d.arrow((290, bundle.y), (290, service.y + 60))
    d.arrow((left[-1].x + 188, 415), bundle.left)
    return d


def draw_request_path() -> Drawing:
    """Draw the stages of a request inside one deadline, and the answer if a stage fails."""
    d = Drawing(
        594,
        "Seven stages inside one deadline; a failing stage leads to a lower tier of answers",
        "One deadline of 100 ms",
    )
    d.text(300, 22, "if the stage fails", "title", "middle")
    for n, (stage, meaning, answer) in enumerate(STAGES):
        y = 36 + 52 * n
        kind = "data" if stage == "store" else "model" if "_" in stage or stage == "ranker" else "plain"
        d.box(Box(10, y, 176, 42), stage, (meaning,), kind)
        if n:
            d.arrow((98, y - 10), (98, y))
        d.arrow((186, y + 21), (212, y + 21), dashed=True)
        d.text(220, y + 25, answer, "soft")
    d.text(10, 426, "Tiers: the best one that works answers", "title")
    for n, (tier, meaning, kind) in enumerate(TIERS):
        y = 438 + 30 * n
        d.box(Box(10, y, 106, 24), tier, kind=kind)
        d.text(128, y + 17, meaning, "soft")
    return d


def read_layers() -> list[list[str]]:
    """Return the packages (rooms) by layer, highest first, from the import contract in pyproject.toml."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (contract,) = (contract for contract in contracts if contract["name"] == LAYERS_CONTRACT)
    return [[room.strip() for room in layer.split("|")] for layer in contract["layers"]]


def draw_code_map() -> Drawing:
    """Draw the packages (rooms) by layer. Raises KeyError for a room that ROOMS does not describe."""
    layers = read_layers()
    d = Drawing(36 + 56 * len(layers), "Packages of the code as layers: a package imports only from below")
    for number, rooms in enumerate(layers):
        width = (384 - 8 * (len(rooms) - 1)) / len(rooms)
        for place, room in enumerate(rooms):
            box = Box(46 + place * (width + 8), 30 + 56 * number, width, 46)
            d.box(box, room, (ROOMS[room],), "model" if room in ("serving", "models") else "plain")
    d.arrow((24, 34), (24, d.height - 16))
    d.text(10, 18, "imports go down", "soft")
    return d
