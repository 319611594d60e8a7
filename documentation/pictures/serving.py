"""Pictures of the bundle, of a version's way into service, and of the circuit breaker."""

from documentation.pictures.drawing import Box, Drawing


def draw_bundle() -> Drawing:
    """Draw the files of a bundle, grouped by use."""
    d = Drawing(
        430, "A bundle root: current, the store and versions; a version: modules, items, checks", "bundle/"
    )
    current = d.box(Box(10, 36, 132, 48), "current", ("a symbolic link",), "data")
    d.box(Box(154, 36, 132, 48), "store.arrow", ("histories",), "data")
    d.box(Box(298, 36, 132, 48), "earlier version", ("for a rollback",), "plain")
    d.box(Box(10, 116, 420, 304), kind="outline")
    d.arrow((current.x + 66, 84), (current.x + 66, 116))
    d.text(24, 140, "bundle/<version>/", "title")
    groups = (
        ("Modules: TorchScript, 8-bit tables", ("query_tower.ts", "candidates.ts", "ranker.ts"), "model"),
        ("Items: mapped into memory", ("index.faiss", "items.arrow", "item_rows.arrow"), "data"),
        ("Checks", ("manifest.json", "golden.arrow", "schema.json"), "plain"),
    )
    for number, (label, files, kind) in enumerate(groups):
        y = 158 + 76 * number
        d.text(24, y + 10, label, "soft")
        for n, file in enumerate(files):
            d.box(Box(18 + 136 * n, y + 20, 132, 34), "", (file,), kind)
    d.text(24, 390, "A load checks every hash and replays the golden", "soft")
    d.text(24, 408, "requests. It refuses a version that fails.", "soft")
    return d


def draw_go_live() -> Drawing:
    """Draw how a bundle version starts to serve, and how the service returns to an earlier version."""
    d = Drawing(480, "Export, verification, the link current, a load beside the old version, swap, rollback")
    export = d.box(Box(10, 14, 200, 50), "Export", ("writes a new folder",), "plain")
    verify = d.box(
        Box(10, 92, 200, 66), "Verify", ("recall, golden requests,", "parity with training"), "plain"
    )
    current = d.box(Box(10, 186, 200, 50), "current", ("moves in one step",), "data")
    load = d.box(
        Box(10, 264, 200, 66), "Each worker loads", ("beside the old version;", "looks every second")
    )
    replay = d.box(Box(10, 358, 200, 50), "Replay", ("golden requests",), "plain")
    serve = d.box(Box(10, 436, 200, 32), "New version answers", kind="model")
    for start, end in ((export, verify), (verify, current), (current, load), (load, replay), (replay, serve)):
        d.arrow(start.bottom, end.top)
    stop = d.box(Box(264, 102, 166, 46), "Not published", ("current stays",), "alarm")
    old = d.box(Box(264, 358, 166, 50), "Refused", ("the old one answers",), "alarm")
    for start, end in ((verify, stop), (replay, old)):
        d.arrow(start.right, end.left, dashed=True)
        d.text((start.right[0] + end.x) / 2, end.left[1] - 8, "fails", "soft", "middle")
    rollback = d.box(Box(264, 186, 166, 50), "Rollback", ("an earlier version",), "plain")
    d.arrow(rollback.left, current.right)
    return d


def draw_circuit_breaker() -> Drawing:
    """Draw the states of a stage's circuit breaker."""
    d = Drawing(366, "Closed, open, and a trial after one second; three failures in a row open the circuit")
    closed = d.box(Box(110, 14, 220, 54), "Closed", ("every request calls the stage",), "model")
    opened = d.box(Box(110, 148, 220, 54), "Open", ("requests skip the stage",), "alarm")
    trial = d.box(Box(110, 282, 220, 54), "Trial", ("one request calls the stage",), "data")
    d.arrow((190, closed.y + 54), (190, opened.y))
    d.text(200, 112, "3 failures in a row", "soft")
    d.arrow((190, opened.y + 54), (190, trial.y))
    d.text(200, 238, "after 1 s, and no", "soft")
    d.text(200, 254, "abandoned call runs", "soft")
    d.arrow((330, 309), (384, 309), (384, 175), (330, 175))
    d.text(392, 236, "fails:", "soft")
    d.text(392, 252, "1 s", "soft")
    d.text(392, 268, "more", "soft")
    d.arrow((110, 309), (56, 309), (56, 41), (110, 41))
    d.text(48, 180, "works", "soft", "end")
    d.text(220, 356, "Each worker has one circuit breaker per stage.", "soft", "middle")
    return d
