"""Reasons claim only what is true, in the language of the request."""

import math
from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from serving import Checkout, Line, Recommender
from serving.pipeline.messages import REASON_FIELDS, read_messages
from serving.storage.golden_requests import read_golden_requests


@pytest.fixture(scope="module")
def bought_together(run_folder: Path) -> set[tuple[str, str]]:
    """Pairs of item and neighbour, by the table that training wrote."""
    (folder,) = (
        path.parent for path in run_folder.parents[1].glob("prepared/*/copurchase_neighbours.parquet")
    )
    table = pq.read_table(folder / "copurchase_neighbours.parquet")
    table = table.filter(pc.equal(table["snapshot"], pc.max(table["snapshot"])))
    ids = pq.read_table(folder / "items.parquet")["item_id"].to_pylist()
    return {
        (ids[a], ids[b])
        for a, b in zip(table["item"].to_pylist(), table["neighbour"].to_pylist(), strict=True)
    }


def test_every_claim_is_true(shared: Recommender, bought_together: set[tuple[str, str]]) -> None:
    """Over users with a history, guests, and every tier."""
    broken = [
        Recommender(replace(shared.bundle, **{part: None}), shared.store)
        for part in ("ranker", "query_tower")
    ]
    titles = dict(zip(shared.bundle.title.to_pylist(), shared.bundle.item_id.to_pylist(), strict=True))
    codes = set()
    for number in range(40):
        user = f"u{number:03d}" if number % 4 else None
        checkout = Checkout(user, [Line(f"i{number:03d}"), Line(f"i{number + 20:03d}")], 1_711_000_000)
        history = set() if user is None or shared.store is None else set(shared.store.get(user).item_id)
        for slate in (
            shared.recommend(checkout, math.inf),
            *(recommender.recommend(checkout, math.inf) for recommender in broken),
            shared.fallback_slate(checkout, "overloaded"),
        ):
            for item in slate.items:
                assert item.reason is not None
                code, params = item.reason.code, item.reason.params
                codes.add(code)
                if code == "co_purchase":
                    seed = titles[params["item"]]
                    assert seed in {line.item_id for line in checkout.basket}
                    assert (seed, item.item_id) in bought_together
                    assert item.reason.text == f"Bought together with {params['item']}"
                elif code == "buy_again":
                    assert item.item_id in history
                elif code == "category":
                    assert item.category.endswith(params["category"])
                    assert "category" in item.sources
                elif code == "popular":
                    assert "popularity" in item.sources
    assert codes >= {"co_purchase", "buy_again", "category"}, codes


def test_an_earlier_slate_claims_nothing_about_todays_basket(recommender: Recommender) -> None:
    checkouts = [checkout for checkout, _ in read_golden_requests(recommender.bundle)]
    for checkout in (replace(checkout, user_id="u001") for checkout in checkouts):
        recommender.recommend(checkout, 60_000.0)
        today = replace(checkout, basket=[])
        slate = recommender.fallback_slate(today, "overloaded")
        assert slate.tier == "cached"
        assert {item.reason.code for item in slate.items if item.reason} & {"co_purchase", "basket"} == set()


def test_every_language_has_a_text_for_every_code() -> None:
    messages = read_messages()
    assert {"en", "de"} <= set(messages.languages)
    for code, fields in REASON_FIELDS.items():
        params = dict.fromkeys(fields, "Milk {0}")
        english, german = (messages.text(language, code, params) for language in ("en", "de"))
        assert english != german
        assert all("Milk {0}" in text for text in (english, german) if fields)
        assert messages.text("de-AT", code, params) == messages.text("DE", code, params) == german
        assert messages.text("xx", code, params) == english


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[en]\nbuy_agian = "x"', "en.buy_agian: unknown code.*do you mean 'buy_again'"),
        ('[en]\nco_purchase = "With {title}"', r"en.co_purchase is .*: the text may use only \{item\}"),
        ('[en]\nco_purchase = "With {item.__class__}"', "may use only"),
        ('[en]\nco_purchase = "With {item!r}"', "may use only"),
        ('[en]\npopular = "{"', "en.popular: .*write {{ for a brace"),
        ("[en]\npopular = 3", "expected a text"),
        ("en = 3", "en is 3: expected a table"),
        ("en = ", "messages.toml"),
    ],
)
def test_wrong_texts_are_refused(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "messages.toml"
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_messages(file)
