"""Pictures of splits over time, labels, the two towers, and the ranker."""

from documentation.pictures.drawing import Box, Drawing


def draw_split_timeline() -> Drawing:
    """Draw which checkouts are in which split, and which are left out."""
    d = Drawing(
        262,
        "Training, validation and test checkouts follow each other; horizons do not cross a split",
        "Checkouts by time",
    )
    for x, width, name, kind in (
        (10, 162, "train", "model"),
        (206, 100, "validation", "data"),
        (340, 54, "test", "data"),
    ):
        d.box(Box(x, 36, width, 40), name, kind=kind)
    for number, x, width in ((1, 172, 34), (1, 306, 34), (2, 394, 36)):
        d.box(Box(x, 36, width, 40), str(number), kind="plain")
    d.arrow((10, 96), (430, 96))
    d.text(430, 114, "time", "soft", "end")
    for x, y, result in ((86, 128, "counts in train"), (186, 154, "left out")):
        d.dot(x, y, "mark" if "counts" in result else "second", 5)
        d.arrow((x + 5, y), (x + 62, y))
        d.text(x - 12, y + 5, "checkout", "soft", "end")
        d.text(max(x + 70, 214), y + 5, f"the horizon ends: {result}", "soft")
    d.line((206, 78), (206, 166), kind="dashed")
    d.text(10, 190, "1  Left out: the horizon reaches into the next split.", "soft")
    d.text(10, 210, "2  Left out: the horizon is not over.", "soft")
    d.text(10, 230, "By default the towers learn from the first half of", "soft")
    d.text(10, 248, "train, and the ranker from the second half.", "soft")
    return d


def draw_label_window() -> Drawing:
    """Draw which clicks and purchases count for a slate."""
    d = Drawing(316, "A click counts within one day of the slate, a purchase within the horizon of 14 days")
    left, day = 20, 24.0  # pixels of a day

    def at(days: float) -> float:
        return left + days * day

    d.text(10, 22, "Days after the checkout and its slate (defaults)", "title")
    d.box(Box(left, 38, day, 26), kind="model")
    d.text(at(1) + 8, 56, "click window: 1 day", "soft")
    d.box(Box(left, 76, 14 * day, 26), "horizon: 14 days", kind="data")
    d.arrow((left, 122), (430, 122))
    for days in (0, 1, 7, 14):
        d.line((at(days), 117), (at(days), 127))
        d.text(at(days), 144, str(days), "soft", "middle")
    rows = (
        (0.5, "Click after 12 hours: label click = 1", "mark"),
        (3.0, "Click after 3 days: late, no label", "second"),
        (9.0, "Purchase on day 9: label purchase = 1, value = spend", "mark"),
        (16.0, "Purchase on day 16: no label", "second"),
    )
    for number, (delay, text, kind) in enumerate(rows):
        y = 170 + 26 * number
        d.dot(at(delay), 122, kind, 5)
        d.dot(left, y - 5, kind, 5)
        d.text(left + 16, y, text, "soft")
    d.text(20, 280, "With logged slates, a purchase counts only after a click:", "soft")
    d.text(20, 298, "without one, the shopper did not need the slate.", "soft")
    return d


def draw_two_tower() -> Drawing:
    """Draw the two towers, which share the item tower: this tower encodes the catalog and the history."""
    d = Drawing(
        404, "A query tower and an item tower give vectors; their inner product is the retrieval score"
    )
    d.box(Box(100, 14, 240, 50), "Inner product", ("the retrieval score",))
    query_tower = d.box(Box(10, 122, 190, 64), "Query tower", ("mean, SASRec or LiGR",), "model")
    item_tower = d.box(Box(276, 122, 154, 64), "Item tower", ("tables and an MLP",), "model")
    d.arrow((150, 122), (150, 64))
    d.text(142, 98, "query vector", "soft", "end")
    d.arrow((310, 122), (310, 64))
    d.text(318, 98, "item vector", "soft")
    d.arrow(item_tower.left, query_tower.right)
    inputs = (
        ("History", "events with their times"),
        ("Basket", "what was just paid"),
        ("Context, profile", "device, city …"),
    )
    for n, (title, text) in enumerate(inputs):
        y = 232 + 54 * n
        d.box(Box(30, y, 170, 46), title, (text,), "data")
        d.line((18, y + 23), (30, y + 23))
    d.arrow((18, 363), (18, 186))
    item = d.box(Box(276, 232, 154, 100), "Item", ("category, brand,", "title, attributes,", "sales"), "data")
    d.arrow(item.top, item_tower.bottom)
    d.text(220, 374, "The item tower encodes", "soft")
    d.text(220, 392, "history and basket, too.", "soft")
    return d


def draw_mmoe() -> Drawing:
    """Draw the multi-gate mixture of experts, with a gate and a tower per task and chained probabilities."""
    d = Drawing(372, "Features feed shared experts; each task has a gate over the experts and a tower")
    experts = [d.box(Box(10 + 107 * n, 244, 99, 36), f"Expert {n + 1}", kind="model") for n in range(4)]
    features = d.box(
        Box(10, 316, 420, 46), "Features", ("of a checkout and a candidate, query vector",), "data"
    )
    for expert in experts:
        d.arrow((expert.bottom[0], features.y), expert.bottom)
    tasks = (("click", "click | shown"), ("purchase", "purchase | click"), ("value", "spend | purchase"))
    for n, (task, output) in enumerate(tasks):
        x = 10 + 144 * n
        gate = d.box(Box(x, 148, 132, 34), f"Gate {n + 1}")
        for expert in experts:
            d.line(expert.top, gate.bottom)
        tower = d.box(Box(x, 84, 132, 40), "Tower", (task,), "model")
        d.arrow(gate.top, tower.bottom)
        result = d.box(Box(x, 28, 132, 32), "", (output,), "data")
        d.arrow(tower.top, result.bottom)
    d.text(220, 18, "Outputs, one per task", "soft", "middle")
    return d


def draw_task_chain() -> Drawing:
    """Draw the chain of tasks from a click to a purchase and to its value, with an example."""
    d = Drawing(
        332,
        "p(click) times p(purchase given click) times the expected spend is the expected value",
        "An example: one item, shown to 100 shoppers",
    )
    rows = (
        ("shown", 100, "100 shoppers", "plain"),
        ("click", 40, "40 click: p(click) = .40", "model"),
        ("purchase", 14, "14 buy: p(purchase | click) = .35", "model"),
    )
    for n, (name, share, text, kind) in enumerate(rows):
        y = 40 + 64 * n
        d.text(88, y + 23, name, "", "end")
        d.box(Box(98, y, 3.3 * share, 34), kind=kind)
        d.text(106 if share == 100 else 98 + 3.3 * share + 8, y + 22, text, "soft")
        if n:
            d.arrow((110, y - 30), (110, y))
    d.text(88, 255, "value", "", "end")
    d.box(Box(98, 232, 214, 34), "each spends 3.50", kind="data")
    d.arrow((110, 202), (110, 232))
    d.text(10, 292, "p(purchase) = .40 × .35 = .14", "soft")
    d.text(10, 312, "expected value = .14 × 3.50 = .49: slates are sorted by it", "soft")
    return d
