"""`retrieval.sources`: shipped sources by name, sources of the user's own, and what is refused."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from models.candidates.source import Source
from training.config_files import CONFIG_DIR
from training.errors import ConfigError
from training.source_settings import (
    parse_sources,
    scored_source_names,
    source_limits,
    source_names,
    source_settings,
)

OWN_MODULE = """
from models.candidates.source import OwnEvents, Source

def carts(limit, half_life=3.0):
    return Source(limit, own_events=OwnEvents(kinds=("cart",), half_life=half_life))

def nothing(limit):
    return limit
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an importable module with sources of the user's own."""
    (tmp_path / "my_sources.py").write_text(OWN_MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_sources", raising=False)
    return "my_sources"


def config(sources: dict[str, Any]) -> Any:
    return OmegaConf.create({"retrieval": {"sources": sources}})


def test_the_default_config_has_all_shipped_sources() -> None:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        sources = parse_sources(compose("train").retrieval.sources)
    shipped = {
        file.stem
        for file in (CONFIG_DIR.parent / "models/candidates").glob("*.py")
        if "\ndef source(" in file.read_text()
    }
    assert sources.keys() == shipped
    assert sources["buy_again"].own_events
    assert sources["buy_again"].own_events.half_life == 60


def test_the_order_is_that_of_the_config_after_the_index() -> None:
    cfg = config({"recency": 3, "buy_again": 0, "ann": 7, "buy_again_half_life": 20.0})
    assert source_names(cfg) == ["ann", "recency", "buy_again"]
    assert source_limits(cfg) == {"ann": 7, "recency": 3, "buy_again": 0}
    assert source_limits(config({"recency": 3})) == {"ann": 0, "recency": 3}
    events = parse_sources(cfg.retrieval.sources)["buy_again"].own_events
    assert events
    assert events.half_life == 20


def test_a_source_of_the_users_own(own_module: str) -> None:
    entry = {"_target_": f"{own_module}.carts", "limit": 5, "half_life": 2.0}
    sources = parse_sources({"ann": 3, "carts": entry, "buy_again": {"limit": 4, "half_life": 9.0}})
    assert isinstance(sources["carts"], Source)
    assert [sources[name].own_events.half_life for name in ("carts", "buy_again")] == [2.0, 9.0]
    targets = [entry["_target_"] for entry in source_settings({"ann": 3, "carts": entry})]
    assert targets == ["models.candidates.ann.source", f"{own_module}.carts"]  # whose code decides the result


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({}, "retrieval.sources is empty"),
        ({"eaes": 5}, "retrieval.sources.eaes: no such source. Did you mean ease?"),
        ({"fusion": 5}, "retrieval.sources.fusion: no such source."),
        ({"ann": "many"}, "retrieval.sources.ann: limit=many: expected a whole number, 0 turns it off"),
        ({"ann": -1}, "retrieval.sources.ann: limit=-1: expected 0 to 10000"),
        ({"ann": {"limit": 3, "probes": 4}}, "retrieval.sources.ann: "),
        ({"ease": 5}, "retrieval.sources: ease starts from the user's items of source buy_again"),
        ({"mine": {"_target_": "my_sources.nothing", "limit": 5}}, "returns a int, expected a models.candid"),
        (
            {"mine": {"_target_": "my_sources.cart", "limit": 5}},
            "my_sources has no cart. Did you mean carts?",
        ),
        ({"mine": {"_target_": "my_sources.carts"}}, "missing 1 required positional argument: 'limit'"),
        (
            {"mine": {"_target_": "no_such_package.source", "limit": 5}},
            "cannot be imported: no module no_such_package",
        ),
    ],
)
def test_what_cannot_run_is_refused(own_module: str, sources: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse_sources(sources)


def test_the_ranker_reads_the_scores_of_all_sources_with_lists_or_of_those_it_names() -> None:
    sources = {"ann": 3, "transitions": 4, "buy_again": 2, "ease": 0}
    cfg = OmegaConf.merge(config(sources), {"features": {"scores": None}})
    assert scored_source_names(cfg) == ["transitions", "ease"]
    cfg.features.scores = ["co_purchase", "ease"]  # as runs of earlier releases
    assert scored_source_names(cfg) == ["co_purchase", "ease"]
    cfg.features.scores = ["transition"]
    with pytest.raises(
        ConfigError, match=r"transition is not a source with lists\. Did you mean transitions\?"
    ):
        scored_source_names(cfg)
