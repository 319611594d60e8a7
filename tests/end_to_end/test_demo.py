"""The demo's check counts slates with a repeated item or product."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from demo import DemoOptions, check_slates, demo
from serving import Checkout, Line, Recommender


def test_slates_of_real_checkouts_repeat_nothing(
    run_folder: Path, version: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo(DemoOptions(run=run_folder, bundle=version, checkouts=20, check=True)) == 0
    assert "20 slates: 0 hold an item of their basket, 0 two packs of one product" in capsys.readouterr().out


def test_a_repeated_item_or_product_fails(version: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recommender = Recommender.load(version)
    slate = recommender.recommend(Checkout(None, [Line("i001")]))
    paid_again = Checkout(None, [Line(slate.items[2].item_id)])
    assert check_slates(recommender.bundle, [(Checkout(None, []), slate), (paid_again, slate)]) == 1
    assert "2 slates: 1 hold an item of their basket, 0 two packs" in capsys.readouterr().out
    bundle = replace(recommender.bundle, product=np.ones(len(recommender.bundle.product), np.int32))
    assert check_slates(bundle, [(Checkout(None, []), slate)]) == 1
    printed = capsys.readouterr().out
    assert "1 slates: 0 hold an item of their basket, 1 two packs of one product" in printed
    assert f"two packs: {slate.items[0].title}, " in printed
