"""The runner over folders of cases: our own, and the one that ATTESTREAM_VECTORS names or that lies beside this tree."""

import pytest

from devtools.given_folder import given_folder
from tests.conformance import generate
from tests.conformance.deviations import load
from tests.conformance.runner import Report, Status, run_folder

LAYOUT = "it holds README.md, which describes the format, CATEGORY.json with the cases of each category, and data/"
GIVEN = given_folder("ATTESTREAM_VECTORS", "vectors", [], LAYOUT)
CATEGORIES = sorted(path.stem for path in GIVEN.path.glob("*.json"))


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


@pytest.mark.skipif(bool(GIVEN.missing), reason=GIVEN.missing)
@pytest.mark.parametrize("category", CATEGORIES or [""])
def test_given_cases_agree(category):
    report = run_folder(GIVEN.path, category=category, deviations=load())
    assert complaints(report) == []
    assert report.good
