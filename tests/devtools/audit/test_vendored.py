import pytest

from devtools.audit import vendored
from devtools.audit.__main__ import ROOT
from devtools.audit.tracked import tracked


@pytest.fixture
def tree(tmp_path):
    """Makes files and returns their paths."""

    def make(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return [tmp_path / name for name in files]

    return make


def test_this_repository_has_manifests_and_nothing_beside_them():
    files = tracked(ROOT)
    assert {path.parent.name for path in files if path.name == vendored.MANIFEST} >= {"manufacturers", "vectors"}
    assert list(vendored.found(ROOT, files)) == []


def test_licences_are_judged_wherever_they_stand(tree, tmp_path):
    files = tree(
        {
            "a/MANIFEST.toml": '[package]\nlicence = "Apache-2.0"',
            "b/MANIFEST.toml": '[[file]]\nlicence = "MIT"\n[[file]]\nlicence = "Proprietary"',
            "c/MANIFEST.toml": "",
        }
    )
    assert list(vendored.found(tmp_path, files)) == [
        "b/MANIFEST.toml names the licence Proprietary",
        "c/MANIFEST.toml names no licence",
    ]


def test_certificates_that_no_manifest_is_about_are_told(tree, tmp_path):
    manifest = {"a/MANIFEST.toml": 'licence = "MIT"', "a/in/here.pem": "", "b/there.DER": "", "b/code.py": ""}
    assert list(vendored.found(tmp_path, tree(manifest))) == ["b/there.DER stands in no MANIFEST.toml"]
