"""The page of metrics, from the collectors of the service."""

from documentation.reference.tables import cell, code, table

INTRODUCTION = """# Metrics

Every metric of `GET /metrics`: its name, type, labels and meaning. This page is generated from the
collectors in `serving/http/metrics.py`. What to do when one moves:
[Watch the service](../how_to/watch_the_service.md#metrics).

A histogram has the series `…_bucket`, `…_sum` and `…_count`. Every worker reports the sum of all workers.
"""


def service_metrics() -> list[tuple[str, str, tuple[str, ...], str]]:
    """Return (name, type, labels, meaning) of every metric. The name is the one that Prometheus stores."""
    from serving.http.metrics import ServiceMetrics

    metrics = []
    for collector in ServiceMetrics().registry._collector_to_names:
        for family in getattr(collector, "describe", collector.collect)():
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = tuple(getattr(collector, "_labelnames", ()))
            metrics.append((name, family.type, labels, family.documentation))
    return sorted(metrics)


def metrics_page() -> str:
    """The page, with a row for each metric."""
    rows = [
        [code(name), kind, ", ".join(code(label) for label in labels), cell(meaning)]
        for name, kind, labels, meaning in service_metrics()
    ]
    return f"{INTRODUCTION}\n{table(('metric', 'type', 'labels', 'meaning'), rows)}"
