"""Items that rules match by attribute and brand, also in bundles that lack them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from exporting.bundle import write_arrow
from serving import Recommender
from serving.pipeline.rules.catalog import RuleCatalog
from serving.pipeline.rules.compiled import CompiledRules
from serving.pipeline.rules.document import Match, read_rule
from serving.storage.bundle import open_bundle, read_arrow


@pytest.fixture
def catalog(shared: Recommender, tmp_path: Path) -> RuleCatalog:
    """Items with a color (red in odd rows, blue in even ones) and a weight, and no brand."""
    bundle = shared.bundle
    attributes = [{"name": "color", "values": ["blue", "red"]}, {"name": "weight", "edges": [1.0, 2.0]}]
    (tmp_path / "schema.json").write_text(json.dumps({"item_attributes": attributes}))
    items = read_arrow(str(bundle.folder / "items.arrow")).drop_columns(["brand"])
    write_arrow(items.combine_chunks(), tmp_path / "items.arrow")
    codes = torch.arange(len(bundle.item_id)) % 2 + 1
    columns = bundle.catalog._replace(attributes=torch.stack([codes, codes], dim=1))
    return RuleCatalog(replace(bundle, folder=tmp_path, catalog=columns))


def test_attributes_match_by_their_values(catalog: RuleCatalog) -> None:
    rows = np.arange(len(catalog.item_id))
    for values, expected in (
        ({"red"}, rows % 2 == 1),
        ({"red", "blue"}, rows > 0),
        ({"green"}, rows < 0),
    ):
        match = Match(attributes=(("color", frozenset(values)),))
        assert (catalog.match(match) == (expected & (rows > 0))).all()
    (unknown,) = catalog.unknown_names(Match(attributes=(("color", frozenset(["bleu"])),)))
    assert (unknown.field, unknown.is_error) == ("attributes.color", False)
    assert "near: blue" in unknown.detail


def test_names_that_a_bundle_cannot_have_are_errors(catalog: RuleCatalog) -> None:
    names = {
        ("colour", "red"): "no attribute 'colour'; near: color",
        ("weight", "1"): "'weight' is a number",
    }
    for (name, value), message in names.items():
        (unknown,) = catalog.unknown_names(Match(attributes=((name, frozenset([value])),)))
        assert unknown.is_error
        assert message in unknown.detail
    rules = [read_rule("a", {"hide": {"brand": "brand1"}}), read_rule("b", {"hide": {"item": "i001"}})]
    brand, item = CompiledRules(rules, catalog).rules
    assert brand.unknown[0].is_error
    assert "export it again" in brand.unknown[0].detail
    assert (brand.n_items, item.n_items) == (0, 1)  # the other rule is in force


def test_a_bundle_of_an_earlier_release_has_brands_and_no_attributes(release: Path) -> None:
    catalog = RuleCatalog(open_bundle(release / "bundle"))
    assert catalog.match(Match(brands=("brand1",))).any()
    (unknown,) = catalog.unknown_names(Match(attributes=(("color", frozenset(["red"])),)))
    assert unknown.is_error


def test_rules_that_stay_are_not_compiled_again(catalog: RuleCatalog) -> None:
    rules = [read_rule("a", {"hide": {"item": "i001"}}), read_rule("b", {"hide": {"item": "i002"}})]
    before = CompiledRules(rules, catalog)
    changed = [rules[0], read_rule("b", {"hide": {"item": "i003"}})]
    after = CompiledRules(changed, catalog, before)
    assert after.rules[0] is before.rules[0]
    assert after.version != before.version
    assert CompiledRules(rules, catalog, after).version == before.version
