import json
from pathlib import Path

import pytest

from attestream.uefi.device_path import device_path_text

PATHS = json.loads((Path(__file__).parent / "device_paths.json").read_text(encoding="utf-8"))["paths"]
END = "7fff0400"


def test_the_oracle_has_values():
    assert len(PATHS) > 100
    assert sum(bool(row["text"]) for row in PATHS) > 95


@pytest.mark.parametrize("row", PATHS, ids=[row["name"] for row in PATHS])
def test_text_is_that_of_libefivar(row):
    path = bytes.fromhex(row["path"])
    assert device_path_text(path) == row["text"]
    if row["text"] and END not in row["path"] and len(path) == int.from_bytes(path[2:4], "little"):
        assert device_path_text(path + bytes.fromhex(END)) == row["text"]
        assert device_path_text(path + path + bytes.fromhex(END) + b"beyond") == f"{row['text']}/{row['text']}"


@pytest.mark.parametrize("size", range(4))
def test_a_node_shorter_than_its_header_has_no_text(size):
    assert device_path_text(bytes([1, 1, size, 0]) + bytes(8)) is None


@pytest.mark.parametrize("row", PATHS, ids=[row["name"] for row in PATHS])
def test_a_node_shorter_than_its_type_is_shown_in_hexadecimal_or_by_what_it_has(row):
    whole = bytes.fromhex(row["path"])
    for length in range(4, len(whole)):
        node = whole[:2] + length.to_bytes(2, "little") + whole[4:length]
        assert isinstance(device_path_text(node), str)
