"""The diagrams by the name of their file."""

from collections.abc import Callable

from documentation.pictures.drawing import Drawing
from documentation.pictures.learning import draw_mmoe, draw_split_timeline, draw_two_tower
from documentation.pictures.serving import draw_bundle, draw_deadline
from documentation.pictures.system import draw_code_map, draw_request_path, draw_system

DRAWINGS: dict[str, Callable[[], Drawing]] = {
    "system": draw_system,
    "request_path": draw_request_path,
    "split_timeline": draw_split_timeline,
    "two_tower": draw_two_tower,
    "mmoe": draw_mmoe,
    "bundle": draw_bundle,
    "deadline": draw_deadline,
    "code_map": draw_code_map,
}
