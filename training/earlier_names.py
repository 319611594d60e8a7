"""Names of earlier releases and their current names.

Configs and weights of old runs are read through these tables, and an old name on the command line is refused
with the new one.
"""

import re
from typing import Any

# Config keys. A key also renames all keys below it. If several apply, the longest decides.
RENAMED_KEYS = {
    "data.snapshots.collaborative": "data.snapshots.ease_neighbours",
    "data.snapshots.collaborative_items": "data.snapshots.ease_items",
    "retrieval.sources.collaborative": "retrieval.sources.ease",
    "retrieval.sources.half_life": "retrieval.sources.buy_again_half_life",
    "retrieval.train.uniform": "retrieval.train.uniform_negatives",
    "ranker.mixture": "ranker.multitask",
    "ranker.mixture.own": "ranker.multitask.specific_experts",
    "ranker.mixture.shared": "ranker.multitask.shared_experts",
    "ranker.train.balance": "ranker.train.loss_balancing",
    "ranker.train.negatives": "ranker.train.negative_sampling_rate",
    "retrain.gates.log": "retrain.gates.calibration_slope",
}

# Settings that became settings of a task. training/config_versions.py converts saved configs.
MOVED_KEYS = {
    "ranker.train.value_weight": "tasks.value.weight",
    "ranker.train.loss.value_share": "tasks.value.ranking",
}

# Classes that a config names in `_target_`.
RENAMED_TARGETS = {
    "models.multitask.cascade.Cascade": "models.ranking.multitask.cascade.Cascade",
    "models.multitask.esmm.ESMM": "models.ranking.multitask.esmm.ESMM",
    "models.multitask.mmoe.MMoE": "models.ranking.multitask.mmoe.MMoE",
    "models.multitask.ple.PLE": "models.ranking.multitask.ple.PLE",
    "models.multitask.shared_bottom.SharedBottom": "models.ranking.multitask.shared_bottom.SharedBottom",
    "models.query_encoder.MeanEncoder": "models.retrieval.mean_encoder.MeanEncoder",
}

# Features of the ranker.
RENAMED_FEATURES = {"copurchase_score": "co_purchase_score"}

# Names in the state dicts of TwoTower and Ranker: pattern → replacement, one after the other.
RENAMED_PARAMETERS = {
    r"^item\.trained$": "item_encoder.trained_mask",
    r"^item\.": "item_encoder.",
    r"^query\.": "query_encoder.",
    r"^attributes\.": "attribute_embeddings.",
    r"\.readout\.mix$": ".readout.bag_weights",
    r"^items\.": "item_embeddings.",
    r"^position\.": "position_bias.",
    r"^mixture\.": "multitask.",
    r"^multitask\.later\.": "multitask.post_click.",
    r"\.first\.": ".first_layer.",
    r"\.second\.": ".second_layer.",
    r"\.of_candidate\.": ".candidate_linear.",
    r"\.of_query\.": ".query_linear.",
}


def current_key(key: str) -> str:
    """The current dotted config key of `key`."""
    return MOVED_KEYS.get(key) or renamed_key(key)


def renamed_key(key: str) -> str:
    """The dotted config key with today's names. A rename never changes the depth of a key."""
    parts = key.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        if prefix in RENAMED_KEYS:
            return ".".join([RENAMED_KEYS[prefix], *parts[length:]])
    return key


def current_parameter(name: str) -> str:
    """The current name of the state dict entry `name`."""
    for pattern, replacement in RENAMED_PARAMETERS.items():
        name = re.sub(pattern, replacement, name)
    return name


def rename_config(config: Any, path: str = "") -> Any:
    """A plain config (dicts, lists, values) with today's keys and classes, in the order of the old one."""
    if not isinstance(config, dict):
        return RENAMED_TARGETS.get(config, config) if path.endswith("_target_") else config
    renamed = {}
    for key, value in config.items():
        old_path = f"{path}.{key}" if path else str(key)
        renamed[renamed_key(old_path).rsplit(".", 1)[-1]] = rename_config(value, old_path)
    return renamed
