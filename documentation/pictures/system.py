"""The whole system, the path of a request, and the rooms of the code."""

from itertools import pairwise

from documentation.pictures.drawing import Box, Drawing

STAGES = ("store", "encode", "query tower", "index", "candidates", "ranker", "slate")
TIERS = (
    ("ranked", "all stages worked"),
    ("retrieval", "order by inner product"),
    ("cached", "the user's last slate"),
    ("category", "bestsellers of the basket's categories"),
    ("popularity", "bestsellers of the shop"),
)


def draw_system() -> Drawing:
    """From the shop's log to a slate, and back into the log."""
    d = Drawing(
        760, 330, "Logs are prepared, trained on and exported as a bundle; the service answers from it"
    )
    logs = d.box(Box(10, 30, 130, 66), "Tables", ("orders, items,", "users, events"), "data")
    prepare = d.box(Box(170, 30, 130, 66), "Prepare", ("one row", "per checkout"))
    train = d.box(Box(330, 30, 130, 66), "Train", ("two towers,", "then the ranker"), "model")
    evaluate = d.box(Box(490, 30, 120, 66), "Evaluate", ("against", "baselines"))
    export = d.box(Box(640, 30, 110, 66), "Export", ("int8, verified",))
    bundle = d.box(Box(640, 140, 110, 66), "Bundle", ("one folder,", "one version"), "data")
    service = d.box(Box(420, 140, 160, 66), "Service", ("torch, faiss, numpy,", "pyarrow; 100 ms"), "model")
    d.box(Box(210, 140, 150, 66), "Shop", ("shows six items", "after a checkout"))
    store = d.box(Box(420, 246, 160, 60), "Event store", ("history of each user",), "data")
    log = d.box(Box(210, 246, 150, 60), "Impression log", ("slates and feedback",), "data")
    for start, end in ((logs, prepare), (prepare, train), (train, evaluate), (evaluate, export)):
        d.arrow(start.right, end.left)
    d.arrow(export.bottom, bundle.top)
    d.arrow(bundle.left, service.right)
    d.arrow((360, 160), (420, 160))
    d.text(390, 153, "order", "soft", "middle")
    d.arrow((420, 188), (360, 188))
    d.text(390, 203, "slate", "soft", "middle")
    d.arrow(service.bottom, store.top)
    d.arrow(store.top, service.bottom)
    d.arrow((460, 206), (460, 226), (330, 226), (330, 246))
    d.arrow(log.left, (75, 276), logs.bottom)
    d.text(84, 268, "the next training", "soft")
    return d


def draw_request_path() -> Drawing:
    """The stages of a request inside one deadline, and the tier that answers where a stage fails."""
    d = Drawing(760, 300, "Seven stages inside one deadline of 100 ms; five tiers of answers")
    d.text(10, 20, "One deadline, 100 ms from arrival to answer", "title")
    boxes = [
        d.box(Box(6 + 108 * n, 36, 100, 44), stage, kind="data" if stage == "store" else "model")
        for n, stage in enumerate(STAGES)
    ]
    for start, end in pairwise(boxes):
        d.arrow(start.right, end.left)
    d.text(
        10, 118, "The answer comes from the best tier that works; those below it fill empty slots", "title"
    )
    for n, (tier, meaning) in enumerate(TIERS):
        y = 132 + 32 * n
        d.box(Box(10, y, 110, 26), tier, kind="model" if n == 0 else "plain" if n < 3 else "alarm")
        d.text(134, y + 18, meaning, "soft")
    faults = (
        (132, "store slow or down: 20 ms, then without a history"),
        (164, "ranker fails, or too little time for it"),
        (196, "the models are late, or the query tower fails"),
        (228, "a user without a last slate"),
        (260, "a basket of unknown items"),
    )
    for y, fault in faults:
        d.text(420, y + 18, fault, "soft")
    return d


def draw_code_map() -> Drawing:
    """The rooms of the code; each imports from those below it."""
    d = Drawing(760, 400, "Rooms of the code as layers: imports run downwards only")
    rows = (
        (("documentation", "this site"),),
        (("benchmarks", "published figures"), ("storefront", "an example shop")),
        (("experimentation", "A/B tests, uplift"), ("operations", "retraining, monitoring")),
        (("exporting", "TorchScript, index, bundle"),),
        (("evaluation", "metrics, baselines"),),
        (("training", "stages, sharding, config"),),
        (("data", "tables to examples"),),
        (("models", "nn.Modules, no I/O"),),
        (("serving", "the wheel sextet"), ("simulation", "a known market"), ("reporting", "pages, charts")),
    )
    for number, row in enumerate(rows):
        width = (660 - 10 * (len(row) - 1)) / len(row)
        for place, (room, content) in enumerate(row):
            box = Box(60 + place * (width + 10), 10 + 43 * number, width, 36)
            kind = "model" if room in ("serving", "models") else "plain"
            d.bar(box, kind)
            split = box.x + width / 2 - (30 if len(row) == 3 else 0)
            d.text(split - 4, box.y + 23, room, "title", "end")
            d.text(split + 4, box.y + 23, content, "soft")
    d.arrow((40, 22), (40, 385))
    d.text(34, 14, "imports", "soft", "middle")
    return d
