"""The runner over folders of cases: our own, and the one that ATTESTREAM_VECTORS names or that lies beside this tree."""

import os
from pathlib import Path

import pytest

from tests.conformance import generate
from tests.conformance.deviations import load
from tests.conformance.runner import Report, Status, run_folder

ROOT = Path(__file__).resolve().parents[2]
BESIDE = ROOT.parent / "shared" / "vectors"
GIVEN = Path(os.environ["ATTESTREAM_VECTORS"]) if "ATTESTREAM_VECTORS" in os.environ else BESIDE
CATEGORIES = sorted(path.stem for path in GIVEN.glob("*.json"))


def complaints(report: Report) -> list[str]:
    bad = (item for item in report.results if item.status in (Status.DIFFER, Status.CANNOT_RUN))
    differing = [f"{item.case_id}: {'; '.join(item.details)}" for item in bad]
    return [*differing, *report.problems]


@pytest.mark.parametrize("category", generate.CATEGORIES)
def test_our_own_cases_agree(category):
    report = run_folder(generate.FOLDER, category=category)
    assert complaints(report) == []
    assert report.good


def test_new_cases_of_our_own_agree(tmp_path):
    generate.write(tmp_path)
    report = run_folder(tmp_path)
    assert complaints(report) == []
    assert report.good


@pytest.mark.skipif(not GIVEN.is_dir() and "ATTESTREAM_VECTORS" not in os.environ, reason="no folder of cases is given")
@pytest.mark.parametrize("category", CATEGORIES or [""])
def test_given_cases_agree(category):
    report = run_folder(GIVEN, category=category, deviations=load())
    assert complaints(report) == []
    assert report.good
