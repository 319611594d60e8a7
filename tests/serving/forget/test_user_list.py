"""Lists of user ids: what is added is read again, whatever the id."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.forget.user_list import append_to_user_list, read_user_list

USER_IDS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), max_size=5)


@given(USER_IDS, USER_IDS)
def test_ids_that_are_added_are_read(tmp_path_factory: pytest.TempPathFactory, first, second) -> None:
    path = tmp_path_factory.mktemp("list") / "forgotten.txt"
    append_to_user_list(path, first)
    append_to_user_list(path, second)
    assert append_to_user_list(path, first + second) == 0
    assert (read_user_list(path) if first or second else []) == [*dict.fromkeys(first + second)]


def test_comments_blank_lines_and_torn_ends(tmp_path: Path) -> None:
    path = tmp_path / "forgotten.txt"
    path.write_text('# by mail, March\n\nU17 \r\n"#7"\nU17\nU18')  # a killed process wrote the end
    assert read_user_list(path) == ["U17", "#7", "U18"]
    assert append_to_user_list(path, ["U19", "U18"]) == 1
    assert read_user_list(path) == ["U17", "#7", "U18", "U19"]


@pytest.mark.parametrize("line", ['"open', '"a" "b"', '""', b"\xff\xfe"])
def test_lines_that_are_no_id_are_refused(tmp_path: Path, line: str | bytes) -> None:
    path = tmp_path / "forgotten.txt"
    path.write_bytes(b"U1\n" + (line.encode() if isinstance(line, str) else line))
    with pytest.raises(ValueError, match=r"forgotten\.txt: (line 2|the file is not UTF-8)"):
        read_user_list(path)
