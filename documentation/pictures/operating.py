"""Pictures of retraining with its gates, of the live state, and of how a user is forgotten."""

from documentation.pictures.drawing import Box, Drawing


def draw_retraining() -> Drawing:
    """Draw retraining: challenger and champion are compared on the same checkouts. Then gates decide."""
    d = Drawing(
        452, "A challenger that passes the gates is published; otherwise the champion continues to serve"
    )
    log = d.box(Box(110, 12, 220, 48), "Today's log", ("prepared into checkouts",), "data")
    challenger = d.box(
        Box(10, 100, 200, 68), "Challenger", ("trained anew, or from", "the champion's weights"), "model"
    )
    champion = d.box(
        Box(230, 100, 200, 68), "Champion", ("its weights, with", "today's prices and sales"), "model"
    )
    window = d.box(Box(60, 210, 320, 50), "Evaluation", ("new checkouts that neither model saw",), "plain")
    gates = d.box(Box(60, 300, 320, 66), "Gates", ("quality, calibration, index recall,", "latency, drift"))
    for box in (challenger, champion):
        d.arrow((box.top[0], log.y + 48), box.top)
        d.arrow(box.bottom, (box.bottom[0], window.y))
    d.arrow(window.bottom, gates.top)
    published = d.box(Box(10, 398, 200, 44), "Pass", ("current moves to it",), "data")
    kept = d.box(Box(230, 398, 200, 44), "Fail", ("the champion stays",), "alarm")
    for box in (published, kept):
        d.arrow((box.top[0], gates.y + 66), box.top)
    return d


def draw_live_state() -> Drawing:
    """Draw how changes of items and rules reach every worker without a new bundle version."""
    d = Drawing(386, "Changes of items and rules reach every worker through the live state within seconds")
    sources = (
        ("PUT /v1/items", "stock, prices, new items"),
        ("PUT /v1/rules/{name}", "hide, pin, boost"),
        ("sextet forget", "announces a user"),
    )
    live = d.box(Box(290, 66, 140, 70), "Live state", ("SQLite, Valkey", "or Redis"), "data")
    for n, (title, text) in enumerate(sources):
        box = d.box(Box(10, 14 + 62 * n, 210, 50), title, (text,))
        d.arrow(box.right, (live.x, 81 + 20 * n))
    workers = [
        d.box(Box(10 + 145 * n, 222, 130, 62), "Worker", ("reads changes", "every second"), "model")
        for n in range(3)
    ]
    d.line(live.bottom, (360, 208))
    d.line((75, 208), (365, 208))
    for worker in workers:
        d.arrow((worker.top[0], 208), worker.top)
    answer = d.box(
        Box(10, 324, 420, 44), "Next request", ("follows the change: no new version, no restart",), "plain"
    )
    for worker in workers:
        d.arrow(worker.bottom, (worker.bottom[0], answer.y))
    return d


def draw_forget_user() -> Drawing:
    """Draw the places from which the data of a forgotten user are deleted, and the times of deletion."""
    d = Drawing(
        420, "The command removes a user from store, log and caches; the next training drops the rest"
    )
    command = d.box(Box(110, 12, 220, 48), "sextet forget U17", ("or DELETE /v1/users/U17",), "alarm")
    d.text(10, 92, "At once", "title")
    places = (
        ("Event store", "rows deleted", "data"),
        ("store.arrow", "written anew", "data"),
        ("Impression log", "files without the user", "data"),
        ("Workers", "caches dropped", "model"),
    )
    for n, (place, text, kind) in enumerate(places):
        d.box(Box(10 + 215 * (n % 2), 104 + 62 * (n // 2), 205, 52), place, (text,), kind)
    d.arrow(command.bottom, (220, 104))
    d.text(10, 252, "With the next training", "title")
    names = d.box(Box(10, 266, 205, 52), "forgotten.txt", ("ids for data.forget",), "data")
    training = d.box(Box(225, 266, 205, 52), "Training", ("drops all their rows",), "model")
    bundle = d.box(Box(225, 344, 205, 52), "New bundle", ("trained without the user",), "data")
    d.arrow(names.right, training.left)
    d.arrow(training.bottom, bundle.top)
    d.text(10, 366, "Yours to delete: old runs,", "soft")
    d.text(10, 384, "backups, the shop's tables.", "soft")
    return d
