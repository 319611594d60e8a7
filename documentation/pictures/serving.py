"""The bundle, and the time of a request."""

from documentation.pictures.drawing import Box, Drawing

DEADLINE_MS = 100
# Of docs/results/serving.md: `python -m benchmarks.serving`, one request in process, a million
# items.
STAGE_MS = (
    ("store", 0.1),
    ("encode", 0.25),
    ("query_tower", 0.35),
    ("index", 1.35),
    ("candidates", 0.65),
    ("ranker", 2.35),
    ("slate", 0.1),
)


def draw_bundle() -> Drawing:
    """The files of a bundle, by what reads them."""
    d = Drawing(
        760, 330, "A bundle root: versions, current, and the store; a version: modules, index, items, checks"
    )
    d.box(Box(10, 20, 200, 46), "bundle/current", ("a link: the version that serves",), "data")
    d.box(Box(10, 86, 200, 46), "bundle/store.arrow", ("events of every user",), "data")
    d.box(Box(10, 152, 200, 46), "an earlier version", ("rollback points current at it",))
    d.bar(Box(270, 20, 480, 300), "plain")
    d.text(286, 42, "bundle/<version>/", "title")
    d.arrow((210, 43), (270, 43))
    groups = (
        (56, "modules (TorchScript, int8 tables)", ("query_tower.ts", "candidates.ts", "ranker.ts"), "model"),
        (136, "items (mapped into memory)", ("index.faiss", "items.arrow", "item_rows.arrow"), "data"),
        (216, "checks", ("manifest.json", "golden.arrow", "schema.json"), "alarm"),
    )
    for y, label, files, kind in groups:
        d.text(286, y + 14, label, "soft")
        for n, file in enumerate(files):
            d.box(Box(286 + 152 * n, y + 22, 142, 36), file, kind=kind)
    d.text(286, 306, "A load checks every hash and replays the golden requests; else it refuses.", "soft")
    return d


def draw_deadline() -> Drawing:
    """The stages of a median request one after the other, and the same on the scale of the deadline."""
    total = sum(duration for _, duration in STAGE_MS)
    d = Drawing(760, 330, f"Stages of a request: {total:.2f} ms of the 100 ms that the deadline allows")
    d.text(
        10, 20, f"Where the time of a request goes: {total:.2f} ms in stages (median, in process)", "title"
    )
    left, scale, y, elapsed = 120, 600 / 6, 40, 0.0
    for stage, duration in STAGE_MS:
        d.text(left - 10, y + 14, stage, anchor="end")
        d.bar(Box(left + elapsed * scale, y, max(duration * scale, 2), 18))
        d.text(left + (elapsed + duration) * scale + 6, y + 14, f"{duration:g} ms", "soft")
        elapsed += duration
        y += 27
    d.line((left, y + 4), (left + 600, y + 4))
    for tick in range(7):
        d.line((left + tick * scale, y + 4), (left + tick * scale, y + 10))
        d.text(left + tick * scale, y + 25, f"{tick} ms", "soft", "middle")
    y += 50
    d.text(left - 10, y + 16, "deadline", anchor="end")
    d.bar(Box(left, y, 600, 22), "plain")
    d.bar(Box(left, y, 600 * total / DEADLINE_MS, 22))
    d.text(left + 600 * total / DEADLINE_MS + 8, y + 16, "left for slow machines, load and faults", "soft")
    d.text(left + 600, y + 38, f"{DEADLINE_MS} ms", "soft", "end")
    return d
