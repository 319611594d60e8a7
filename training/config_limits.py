"""Limits of numbers in a config, by the last part of their key: `retrieval.train.epochs` → `epochs`.

A key is listed in full if its last part also means something else.
"""

from typing import Any

NO_LIMIT = 10**9
# Keys below these keys are names that the user chooses: columns, tables and parameters of classes.
NAMES_OF_USERS = ("data.columns.", "data.files.", "data.tables.", "logger.", "callbacks.")
VALUE_RANGES: dict[str, tuple[float, float]] = {
    # training
    "epochs": (1, 10_000), "max_steps": (1, NO_LIMIT),
    "validate_every": (1, NO_LIMIT), "validation_checkouts": (1, NO_LIMIT),
    "patience": (1, NO_LIMIT), "batch_size": (1, NO_LIMIT), "orders_per_step": (1, NO_LIMIT),
    "share": (0.01, 0.99), "data.organic.share": (0, 0.9),
    "learning_rate": (1e-8, 10), "table_learning_rate": (1e-8, 10),
    "positives": (1, NO_LIMIT), "uniform_negatives": (0, NO_LIMIT), "in_batch_negatives": (0, NO_LIMIT),
    "weight_decay": (0, 10), "warmup_steps": (0, NO_LIMIT), "decay_share": (0.01, 1), "min_factor": (0, 1),
    "skip_share": (0, 0.99), "min_gain": (0, 1),
    "max_checkouts": (1, NO_LIMIT),
    "negative_sampling_rate": (1e-3, 1),
    "pointwise": (0, 1e6), "pairwise": (0, 1e6), "listwise": (0, 1e6), "lambda": (0, 1e6),
    "health_every": (1, NO_LIMIT), "checkpoint_every": (1, NO_LIMIT), "user_dropout": (0, 0.99),
    "seed": (0, 2**32 - 1),
    # models
    "dim": (1, 4096), "category_dim": (1, 4096), "brand_dim": (1, 4096),
    "token_dim": (1, 4096), "attribute_dim": (1, 4096), "content_dim": (1, 4096), "leaf_dim": (1, 4096),
    "id_dropout": (0, 0.99),
    "id_rows": (2, NO_LIMIT), "token_rows": (2, NO_LIMIT), "hashes": (1, 16), "id_dim": (1, 4096),
    "width": (1, 4096), "layers": (0, 64), "heads": (1, 256),
    "max_orders": (1, NO_LIMIT), "dropout": (0, 0.99),
    "item_hidden": (1, 4096), "query_hidden": (1, 4096), "query_layers": (1, 64),
    "experts": (1, 256), "specific_experts": (1, 256), "shared_experts": (1, 256), "tower": (1, 4096),
    "max_events": (1, NO_LIMIT), "buy_again_half_life": (1e-3, 1e5),
    # candidates
    "ann": (0, 10_000), "buy_again": (0, 10_000), "co_purchase": (0, 10_000), "category": (0, 10_000),
    "popularity": (0, 10_000), "recency": (0, 10_000), "ease": (0, 10_000), "ease_neighbours": (0, 10_000),
    "transitions": (0, 10_000), "transitions_decay": (1e-3, 1), "transition_neighbours": (1, 10_000),
    # data and features
    "validation_share": (0.01, 0.9), "test_share": (0.01, 0.9), "every": (1, 3660),
    "neighbours_every": (1, NO_LIMIT), "neighbours_from_share": (0, 1), "neighbours": (1, 10_000),
    "ease_items": (2, 20_000),
    "threads": (1, 1024), "max_history": (1, NO_LIMIT),
    "category_levels": (1, 16), "brands": (1, NO_LIMIT), "tokens": (1, NO_LIMIT),
    "token_min_items": (1, NO_LIMIT), "tokens_per_item": (1, NO_LIMIT), "attribute_values": (1, NO_LIMIT),
    "attribute_edges": (1, 10_000), "title_dim": (1, 384),
    # simulated data
    "data.users": (1, 10_000_000), "data.items": (20, 10_000_000), "days": (7, 3660), "gap": (0.5, 365),
    "slots": (1, 100), "exploration": (0, 1), "position_bias": (0, 10),
    "data.vector.dim": (0, 4096), "noise": (0, 1000),
    # export
    "checkouts": (1, NO_LIMIT), "golden": (1, 1000), "queries": (1, NO_LIMIT),
    "recall": (0.5, 0.9999), "p99_ms": (1e-3, 1e4), "bytes_per_vector": (1, 1e5),
    "revenue_weight": (0, 1), "category_cap": (1, NO_LIMIT), "product_cap": (1, NO_LIMIT),
    "diversity": (0, 1),
}  # fmt: skip


def find_range_error(leaves: dict[str, Any]) -> str | None:
    """Describes the first leaf (dotted key → value) outside its limits. None if all are inside."""
    for key, value in leaves.items():
        if key.startswith(NAMES_OF_USERS):
            continue
        limits = VALUE_RANGES.get(key) or VALUE_RANGES.get(key.rsplit(".", 1)[-1])
        if limits is None or isinstance(value, bool):
            continue
        low, high = limits
        if isinstance(value, str):  # a default of null has no type that would reject the value
            return f"{key}={value}: expected a number from {low:g} to {high:g}"
        if not isinstance(value, int | float):
            continue
        if not low <= value <= high:
            return f"{key}={value}: expected {low:g} to {high:g}"
    return None
