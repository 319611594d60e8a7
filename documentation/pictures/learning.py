"""Splits over time, the two towers and the ranker."""

from documentation.pictures.drawing import Box, Drawing


def draw_split_timeline() -> Drawing:
    """Which checkouts are in which split, and whose horizon keeps them out."""
    d = Drawing(
        760, 230, "Training, validation and test checkouts follow each other; horizons do not cross a split"
    )
    d.text(
        10, 20, "Checkouts by time; the horizon is the time after a checkout in which outcomes count", "title"
    )
    spans = ((20, 330, "train", "model"), (400, 110, "validation", "data"), (570, 90, "test", "data"))
    for x, width, name, kind in spans:
        d.box(Box(x, 48, width, 40), name, kind=kind)
    for x, width in ((350, 50), (510, 60), (660, 80)):
        d.box(Box(x, 48, width, 40), "", kind="plain")
    d.line((20, 110), (740, 110))
    d.arrow((700, 110), (745, 110))
    for x, label in ((400, "validation starts"), (570, "test starts"), (740, "log ends")):
        d.line((x, 40), (x, 118), dashed=True)
        d.text(x, 134, label, "soft", "end" if x > 700 else "middle")
    d.text(375, 160, "purged: their horizon", "soft", "middle")
    d.text(375, 176, "reaches into the next split", "soft", "middle")
    d.text(540, 160, "purged", "soft", "middle")
    d.text(750, 160, "immature: horizon", "soft", "end")
    d.text(750, 176, "not over", "soft", "end")
    d.text(20, 160, "The towers learn from the earlier part,", "soft")
    d.text(20, 176, "the ranker from the later part:", "soft")
    d.text(20, 192, "its two-tower scores are out of sample.", "soft")
    d.text(
        20,
        218,
        "Prices, sales and neighbours of a checkout are those of the latest snapshot before it.",
        "soft",
    )
    return d


def draw_two_tower() -> Drawing:
    """The towers share the item tower: it encodes the catalog and the history."""
    d = Drawing(
        760, 330, "A query tower and an item tower give vectors; their inner product is the retrieval score"
    )
    history = d.box(Box(10, 240, 130, 60), "History", ("events with times",), "data")
    basket = d.box(Box(150, 240, 110, 60), "Basket", ("just paid",), "data")
    context = d.box(Box(270, 240, 130, 60), "Context, profile", ("attributes",), "data")
    item = d.box(Box(470, 240, 280, 60), "Item", ("id, category, brand, title, attributes, vectors",), "data")
    query_tower = d.box(Box(60, 130, 290, 60), "Query tower", ("mean, SASRec or LiGR encoder",), "model")
    item_tower = d.box(Box(500, 130, 220, 60), "Item tower", ("embedding tables, one MLP",), "model")
    score = d.box(Box(300, 20, 250, 56), "Inner product", ("plus the item's sales, learned weights",))
    for start, x in ((history, 120), (basket, 205), (context, 300)):
        d.arrow(start.top, (x, 190))
    d.arrow(item.top, item_tower.bottom)
    d.arrow(query_tower.top, (205, 48), score.left)
    d.text(160, 96, "query vector", "soft", "middle")
    d.arrow(item_tower.top, (610, 48), score.right)
    d.text(660, 96, "item vector", "soft", "middle")
    d.arrow(item_tower.left, query_tower.right, dashed=True)
    d.text(425, 152, "vectors of the items", "soft", "middle")
    d.text(425, 178, "in history and basket", "soft", "middle")
    return d


def draw_mmoe() -> Drawing:
    """The multi-gate mixture of experts: a gate and a tower per task, probabilities chained."""
    d = Drawing(760, 390, "Features feed shared experts; each task has a gate over the experts and a tower")
    features = d.box(
        Box(160, 330, 440, 50),
        "Features of a (checkout, candidate) pair",
        ("blocks, embeddings, query vector",),
        "data",
    )
    experts = [d.box(Box(130 + 130 * n, 246, 110, 40), f"Expert {n + 1}", kind="model") for n in range(4)]
    for expert in experts:
        d.arrow((expert.bottom[0], features.y), expert.bottom)
    tasks = (
        ("click", "p(click)"),
        ("purchase", "p(purchase)"),
        ("value", "E[spend | purchase]"),
    )
    for n, (task, output) in enumerate(tasks):
        x = 90 + 210 * n
        gate = d.box(Box(x, 162, 160, 36), f"Gate of {task}")
        for expert in experts:
            d.line(expert.top, gate.bottom)
        tower = d.box(Box(x, 100, 160, 36), f"Tower of {task}", kind="model")
        d.arrow(gate.top, tower.bottom)
        result = d.box(Box(x, 40, 160, 34), output, kind="data")
        d.arrow(tower.top, result.bottom)
    d.arrow((250, 57), (300, 57), dashed=True)
    d.text(380, 22, "p(purchase) = p(click) · p(purchase | click)", "soft", "middle")
    return d
