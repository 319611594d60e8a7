"""`rules check`, and rules of the commands that answer."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serving.cli import main
from serving.live_items.changes import make_change, to_entries
from serving.storage.bundle import read_arrow
from serving.stores.live_state import Change
from serving.stores.uri import open_live_state


def check(version: Path, folder: Path, text: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    file = folder / "rules.toml"
    file.write_text(text)
    code = main(["rules", "check", str(file), "--bundle", str(version)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[rules.a]\npin = { item = "i001", slot = 2 }\n[rules.b]\npin = { item = "i002", slot = 2 }\n',
            "b: a pins the same slot, 2",
        ),
        (
            '[rules.a]\npin = { item = "i001", slot = 2 }\n[rules.b]\nhide = { category = "food/dairy" }\n',
            "a: b hides the pinned item",
        ),
        (
            '[rules.a]\nfloor = { item = "i001", at_least = 2 }\n',
            "a: the floor asks for 2 items, but only 1 of the matching items can be shown",
        ),
        (
            '[rules.a]\nhide = { category = ["food", "home", "pets/dog", "pets/cat"] }\n'
            'when = { context = { country = "NO" } }\n',
            "a: only 0 items are left for six slots; the others are hidden by a (where country is NO)",
        ),
        ('[rules.a]\nhide = { category = "fod" }\n', "no item has the category 'fod'; near: food"),
        (
            '[rules.a]\nfloor = { category = "food/dairy", at_least = 3 }\n'
            '[rules.b]\ncap = { category = "food", at_most = 2 }\n',
            "a: the floor asks for 3 items, but b allows only 2",
        ),
    ],
)
def test_conflicts_are_errors(
    version: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    code, _, errors = check(version, tmp_path, text, capsys)
    assert code == 1
    assert f"error: {message}" in errors or message in errors


def test_rules_that_are_never_in_force_together_do_not_conflict(
    version: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        '[rules.a]\npin = { item = "i001", slot = 2 }\n'
        'when = { hours = "08:00-12:00", days = ["mon", "fri"] }\n'
        '[rules.b]\npin = { item = "i002", slot = 2 }\nwhen = { hours = "12:00-18:00" }\n'
        '[rules.c]\npin = { item = "i003", slot = 2 }\nwhen = { days = ["sun"], hours = "22:00-06:00" }\n'
        '[rules.d]\nhide = { item = "unknown" }\n'
    )
    code, printed, errors = check(version, tmp_path, text, capsys)
    assert code == 0, errors
    assert "warning: d: item: there is no item 'unknown'" in errors
    assert "a  pin             1 item" in printed
    overlapping = text.replace("12:00-18:00", "11:59-18:00")
    assert check(version, tmp_path, overlapping, capsys)[0] == 1


def test_the_example_of_the_documentation_is_sound(
    version: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[3] / "docs" / "reference" / "rules.md").read_text()
    text = page.split("```toml\n")[1].split("```")[0]
    code, _, errors = check(version, tmp_path, text, capsys)
    assert code == 0, errors


def test_recommend_obeys_rules(version: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rules.toml"
    file.write_text('[rules.a]\npin = { item = "i007", slot = 3 }\n[rules.b]\nhide = { brand = "brand3" }\n')
    arguments = ["recommend", "--bundle", str(version), "--items", "i001", "--rules", str(file), "--json"]
    assert main(arguments) == 0
    slate = json.loads(capsys.readouterr().out)
    assert slate["items"][2]["item_id"] == "i007"
    assert {"rule": "a", "effect": "slot 3"} in slate["rules"]
    assert all(int(item["item_id"][1:]) % 7 != 3 for item in slate["items"])
    file.write_text('[rules.a]\nhide = { category = "fod" }\n')
    assert main(arguments) == 0
    assert "note: rule 'a': category: no item has the category 'fod'; near: food" in capsys.readouterr().err
    file.write_text("[rules.a]\npin = 3\n")
    assert main(arguments) == 1
    assert f"{file}: rules.a: pin: it is 3: expected a table" in capsys.readouterr().err


def test_recommend_and_batch_obey_the_live_state(
    roomy_version: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rules of the route replace those of the file; items that are out of stock stay away."""
    file, live = tmp_path / "rules.toml", str(tmp_path / "live.sqlite")
    file.write_text('[rules.a]\npin = { item = "i007", slot = 3 }\n[rules.b]\nhide = { brand = "brand3" }\n')
    new = {"item_id": "new-1", "title": "New", "category": "pets/bird", "price": 1.5}
    rules = {"a": {"pin": {"item": "new-1", "slot": 3}}, "c": {"hide": {"category": "food"}}, "odd": {}}
    changes = to_entries(map(make_change, [{"item_id": "i005", "available": False}, new]), 2e9)
    state = open_live_state(live)
    state.write(
        [*changes, *(Change("rules", name, json.dumps(rule).encode()) for name, rule in rules.items())]
    )
    options = ["--bundle", str(roomy_version), "--rules", str(file), "--live", live]
    assert main(["recommend", *options, "--items", "i001", "--json"]) == 0
    printed = capsys.readouterr()
    assert "note: rules 'odd' of the live state is ignored" in printed.err
    items = json.loads(printed.out)["items"]
    checkouts = pa.table({"user_id": ["u001"], "basket_item_id": [["i001"]]})
    pq.write_table(checkouts, tmp_path / "checkouts.parquet")
    slates = tmp_path / "slates.parquet"
    batch = ["batch", *options, "--checkouts", str(tmp_path / "checkouts.parquet"), "--out", str(slates)]
    assert main(batch) == 0
    (batched,) = pq.read_table(slates)["item_id"].to_pylist()
    categories = read_arrow(str(roomy_version / "items.arrow"))
    of = dict(zip(categories["item_id"].to_pylist(), categories["category"].to_pylist(), strict=True))
    for shown in ([item["item_id"] for item in items], batched):
        assert shown[2] == "new-1"
        assert "i005" not in shown
        assert all(
            not of[item].startswith("food") and int(item[1:]) % 7 != 3 for item in shown if item != "new-1"
        )
    Path(live).write_bytes(b"no database" * 1000)
    assert main(["recommend", *options]) == 1
    assert "live state" in capsys.readouterr().err
