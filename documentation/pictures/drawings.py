"""The drawing functions of all pictures, by file name."""

from collections.abc import Callable

from documentation.pictures.charts import draw_deadline, draw_index_recall, draw_latency
from documentation.pictures.drawing import Drawing
from documentation.pictures.learning import (
    draw_label_window,
    draw_mmoe,
    draw_split_timeline,
    draw_task_chain,
    draw_two_tower,
)
from documentation.pictures.operating import draw_forget_user, draw_live_state, draw_retraining
from documentation.pictures.quality_charts import draw_calibration, draw_drift, draw_frontier, draw_loop
from documentation.pictures.serving import draw_bundle, draw_circuit_breaker, draw_go_live
from documentation.pictures.slates import (
    draw_experiment_layers,
    draw_index,
    draw_slate,
)
from documentation.pictures.system import draw_code_map, draw_request_path, draw_system

DIAGRAMS: dict[str, Callable[[], Drawing]] = {
    "system": draw_system,
    "request_path": draw_request_path,
    "slate": draw_slate,
    "split_timeline": draw_split_timeline,
    "label_window": draw_label_window,
    "two_tower": draw_two_tower,
    "mmoe": draw_mmoe,
    "task_chain": draw_task_chain,
    "retrieval_index": draw_index,
    "bundle": draw_bundle,
    "go_live": draw_go_live,
    "circuit_breaker": draw_circuit_breaker,
    "retraining": draw_retraining,
    "live_state": draw_live_state,
    "experiment_layers": draw_experiment_layers,
    "forget_user": draw_forget_user,
    "code_map": draw_code_map,
}
CHARTS: dict[str, Callable[[], Drawing]] = {
    "deadline": draw_deadline,
    "latency": draw_latency,
    "index_recall": draw_index_recall,
    "frontier": draw_frontier,
    "calibration": draw_calibration,
    "loop": draw_loop,
    "drift": draw_drift,
}
DRAWINGS = DIAGRAMS | CHARTS
