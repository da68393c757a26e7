"""Every vendored file has a row that says where it comes from and under which licence, and is what the row says."""

import hashlib
import re
import tomllib
from pathlib import Path

FOLDER = Path(__file__).parent
ROWS = tomllib.loads((FOLDER / "MANIFEST.toml").read_text(encoding="utf-8")).get("file", [])
OWN = {"MANIFEST.toml", "NOTICE", "LICENSE", "README.md"}
LICENCES = {"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "MIT", "CC0-1.0"}


def test_every_file_has_one_row():
    paths = [row["path"] for row in ROWS]
    files = {
        str(path.relative_to(FOLDER))
        for path in FOLDER.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc") and path.name not in OWN
    }
    assert len(paths) == len(set(paths))
    assert set(paths) == files


def test_every_row_is_complete_and_true():
    for row in ROWS:
        if row.get("origin") == "own":
            assert "repository" not in row, row["path"]
        else:
            assert row["repository"].startswith("https://github.com/"), row["path"]
            assert re.fullmatch(r"[0-9a-f]{40}", row["commit"]), row["path"]
        assert row["source"], row["path"]
        assert row["licence"] in LICENCES, row["path"]
        assert hashlib.sha256((FOLDER / row["path"]).read_bytes()).hexdigest() == row["sha256"], row["path"]
