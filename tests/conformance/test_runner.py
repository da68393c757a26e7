import json

import pytest

from tests.conformance.__main__ import main
from tests.conformance.compare import differences
from tests.conformance.deviations import FILE, Deviation, DeviationsError, load
from tests.conformance.outcome import CannotRunError, Outcome
from tests.conformance.runner import Status, adapter_of, run_folder

PASS = {"id": "a-1", "inputs": {}, "expected": {"verdict": "pass"}}


def write(folder, *cases, category="a"):
    (folder / f"{category}.json").write_text(json.dumps({"category": category, "cases": list(cases)}), encoding="utf-8")


def run(folder, outcome, deviations=(), **more):
    def answer(case, at):
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return run_folder(folder, adapters=lambda category: answer, deviations=deviations, **more)


def excuse(**more):
    return Deviation(
        **{"category": "a", "case": "a-1", "pattern": "", "value": "", "reason": "because", "right": "this", **more}
    )


def test_a_case_that_agrees_is_good(tmp_path):
    write(tmp_path, PASS)
    report = run(tmp_path, Outcome("pass"))
    assert report.good
    assert [item.status for item in report.results] == [Status.AGREE]


@pytest.mark.parametrize(
    ("expected", "outcome"),
    [
        ({"verdict": "fail"}, Outcome("fail")),
        ({"verdict": "error", "exception": "ValueError", "message": "no"}, Outcome("fail")),
        ({"verdict": "fail", "event_ids": ["a", "b"]}, Outcome("fail", ["a", "b"])),
        ({"verdict": "pass", "pcrs": {"0": "00"}}, Outcome("pass", values={"pcrs": {"0": "00"}, "more": 1})),
        ({"verdict": "pass", "keys": [["a", 1]]}, Outcome("pass", values={"keys": (("a", 1),)})),
        (
            {"verdict": "pass", "steps": [{"verdict": "error", "n": 1}]},
            Outcome("pass", values={"steps": [{"verdict": "fail", "n": 1, "m": 2}]}),
        ),
    ],
)
def test_what_agrees(expected, outcome):
    assert differences(expected, outcome) == []


@pytest.mark.parametrize(
    ("expected", "outcome", "value"),
    [
        ({"verdict": "pass"}, Outcome("fail"), "verdict"),
        ({"verdict": "fail"}, Outcome("pass"), "verdict"),
        ({"verdict": "fail"}, Outcome("maybe"), "verdict"),
        ({"verdict": "fail", "event_ids": ["a", "b"]}, Outcome("fail", ["b", "a"]), "event_ids"),
        ({"verdict": "fail", "event_ids": []}, Outcome("fail"), "event_ids"),
        ({"verdict": "pass", "pcrs": {}}, Outcome("pass", values={"pcrs": {"0": "00"}}), "pcrs"),
        ({"verdict": "pass", "pcrs": {"0": "00"}}, Outcome("pass"), "pcrs"),
        (
            {"verdict": "pass", "steps": [{"verdict": "pass"}]},
            Outcome("pass", values={"steps": [{"verdict": "fail"}]}),
            "steps",
        ),
        ({"verdict": "pass", "steps": [{"verdict": "pass"}]}, Outcome("pass", values={"steps": []}), "steps"),
        ({"verdict": "pass", "steps": [{"verdict": "pass"}]}, Outcome("pass", values={"steps": ["pass"]}), "steps"),
    ],
)
def test_what_differs(expected, outcome, value):
    assert [item.value for item in differences(expected, outcome)] == [value]


@pytest.mark.parametrize("expected", [{}, {"pcrs": {}}, {"verdict": ""}, {"verdict": "unknown"}, None, []])
def test_an_oracle_without_values_can_not_be_agreed_with(tmp_path, expected):
    """Three published oracles had no PCR block, and comparing nothing counted as a pass."""
    write(tmp_path, {**PASS, "expected": expected})
    report = run(tmp_path, Outcome("pass"))
    assert not report.good
    assert report.results[0].status is Status.CANNOT_RUN


@pytest.mark.parametrize("error", [CannotRunError("no such call"), KeyError("inputs"), RuntimeError("bug")])
def test_a_case_that_can_not_run_fails_the_run(tmp_path, error):
    write(tmp_path, PASS)
    report = run(tmp_path, error)
    assert not report.good
    assert report.results[0].status is Status.CANNOT_RUN


def test_a_category_without_adapter_fails_the_run(tmp_path):
    write(tmp_path, PASS, category="unheard_of")
    report = run_folder(tmp_path)
    assert not report.good
    assert report.problems == ("category unheard_of has no adapter: 1 cases can not run",)


@pytest.mark.parametrize("name", ["runner", "compare", "os.path", "test_runner", "../x", ""])
def test_only_adapters_are_adapters(name):
    assert adapter_of(name) is None


def test_an_adapter_that_does_not_load_fails_the_run(tmp_path):
    def broken(category):
        raise ImportError("no module")

    write(tmp_path, PASS)
    report = run_folder(tmp_path, adapters=broken)
    assert not report.good
    assert "can not be loaded" in report.problems[0]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"category": "a"}', '{"category": "a", "cases": []}', '{"category": "a", "cases": [{}]}']
)
def test_a_file_without_cases_fails_the_run(tmp_path, text):
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    assert not run(tmp_path, Outcome("pass")).good


def test_a_folder_without_cases_fails_the_run(tmp_path):
    assert not run(tmp_path, Outcome("pass")).good
    write(tmp_path, PASS)
    assert not run(tmp_path, Outcome("pass"), category="b").good


def test_an_id_that_stands_twice_fails_the_run(tmp_path):
    write(tmp_path, PASS, PASS)
    assert not run(tmp_path, Outcome("pass")).good


def test_an_excuse_covers_its_case_and_no_other(tmp_path):
    write(tmp_path, PASS, {**PASS, "id": "a-2"})
    report = run(tmp_path, Outcome("fail"), [excuse()])
    assert [item.status for item in report.results] == [Status.EXCUSED, Status.DIFFER]
    assert not report.good


def test_an_excuse_for_one_value_covers_no_other(tmp_path):
    write(tmp_path, {**PASS, "expected": {"verdict": "pass", "name": "x"}})
    row = excuse(value="name")
    assert run(tmp_path, Outcome("pass"), [row]).good
    assert run(tmp_path, Outcome("fail", values={"name": "y"}), [row]).results[0].status is Status.DIFFER


def test_an_excuse_that_is_not_needed_fails_the_run(tmp_path):
    write(tmp_path, PASS)
    for row in (excuse(), excuse(case="", pattern="a-[0-9]"), excuse(value="name")):
        report = run(tmp_path, Outcome("pass"), [row])
        assert not report.good
        assert report.problems[0].startswith("excuse not needed: a ")


def test_an_excuse_for_a_case_of_another_folder_is_none(tmp_path):
    write(tmp_path, PASS)
    assert run(tmp_path, Outcome("pass"), [excuse(case="a-gone"), excuse(category="b")]).good


ROW = '[[deviation]]\ncategory = "a"\nreason = "r"\nright = "x"\n'


@pytest.mark.parametrize(
    "text",
    [
        "deviation = 7",
        "[[deviations]]\n",
        ROW,
        ROW + 'case = "a-1"\npattern = "a-1.*"\n',
        ROW + 'case = ""\n',
        ROW + 'case = "a-1"\nwhy = "x"\n',
        ROW + 'pattern = "("\n',
        ROW + 'pattern = ".*"\n',
        ROW + 'pattern = "a-.*"\n',
        '[[deviation]]\ncategory = "a"\ncase = "a-1"\nright = "x"\n',
        '[[deviation]]\ncategory = "a"\ncase = "a-1"\nreason = "x"\n',
    ],
)
def test_excuses_must_be_precise_and_have_a_reason(tmp_path, text):
    path = tmp_path / "deviations.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DeviationsError):
        load(path)


def test_the_excuses_in_use_are_well_formed():
    assert all(row.reason.endswith(".") and row.right.endswith(".") for row in load(FILE))


def test_the_command_tells_by_its_exit_code(tmp_path, capsys):
    write(
        tmp_path,
        {
            "id": "algorithms-x",
            "call": "algorithms.is_accepted",
            "inputs": {"algorithm": "rsa", "accepted": ["rsa"]},
            "expected": {"verdict": "pass"},
        },
        category="algorithms",
    )
    assert main([str(tmp_path)]) == 0
    assert "algorithms" in capsys.readouterr().out
    assert main([str(tmp_path), "--category", "severity"]) == 1
    assert "has no cases of category severity" in capsys.readouterr().out
    write(tmp_path, PASS, category="unheard_of")
    assert main([str(tmp_path), "--json"]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert (shown["good"], shown["categories"]["algorithms"]["agree"]) == (False, 1)
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path / "nowhere")])
    assert stopped.value.code == 2
