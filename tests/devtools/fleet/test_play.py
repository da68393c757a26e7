"""Machines that live as a scenario says on a real installation, and an audit that notices when the record is wrong."""

import random

import pytest

from attestream.errors import ConfigError
from devtools.fleet.audit import deviations, standings
from devtools.fleet.machine import Image, Machine
from devtools.fleet.play import play
from devtools.fleet.scenario import SHIPPED, Scenario, load
from devtools.sample_result import sample_result
from devtools.soft_tpm import KeyPool
from schemas.events import Event, EventKind, Finding, Revocation, Standing

EVENTFUL = """
doc = "A bit of everything, each with an identity of its own."
agents = 14
duration_s = 4
interval_ms = 300
lease_ms = 60000
timeout_ms = 5000
workers = 1
connections = "own"
image = {files = 40, at_boot = 5, boot_logs = 0.5}
step = [
    {at_s = 0, do = "run", share = 0.5},
    {at_s = 0, do = "intrude", count = 2, group = "broken"},
    {at_s = 0.3, do = "hide", count = 1},
    {at_s = 0.3, do = "forge", count = 1},
    {at_s = 0.5, do = "reconnect", count = 4},
    {at_s = 0.5, do = "publish"},
    {at_s = 1, do = "renew", count = 3},
    {at_s = 1.5, do = "renew", group = "broken"},
    {at_s = 1.5, do = "upgrade", count = 3},
    {at_s = 2, do = "reboot", count = 2},
    {at_s = 3, do = "readmit", group = "broken"},
]
"""


@pytest.mark.timeout(600)
async def test_every_agent_stands_as_it_must_after_an_eventful_life(tmp_path) -> None:
    (tmp_path / "eventful.toml").write_text(EVENTFUL)
    outcome = await play(load(str(tmp_path / "eventful.toml")), seed=3, tell=lambda text: None)
    assert outcome.wrong == []
    assert outcome.counts["events.failed"] == outcome.counts["revocations"] == 4
    assert outcome.counts["cut_off"] == 4


class Fleet:
    def __init__(self, *machines):
        self.agents = {machine.agent_id: machine for machine in machines}


@pytest.fixture
def machine() -> Machine:
    made = Machine("a", ak="p256", image=Image(10), keys=KeyPool(1), boot_log=False, rng=random.Random(1))
    made.power_on(3)
    return made


def event(kind: EventKind, number: int, culprit: str = "", **more) -> Event:
    found = [Finding(code="c", layer="runtime", severity="failure", culprit=culprit, message="", remedy="")]
    more = {"agent_id": "a", "at": 1, "worker": "w", "fence": 1, "findings": found, **more}
    return Event(id=f"{kind}:{number}", kind=kind, event_number=number, **more)


def revocation(id_: str) -> Revocation:
    return Revocation(id=id_, agent_id="a", at=1, signed_at=1, standing=Standing.FAILED, enrolment=1, policy="", findings=[])


ADDED = event(EventKind.ADDED, 1)
TRUSTED = event(EventKind.TRUSTED, 2)


def test_an_honest_record_has_no_deviation(machine) -> None:
    assert deviations(Fleet(machine), [ADDED, TRUSTED], []) == []
    machine.intrude()
    failed = event(EventKind.FAILED, 3, machine.owed.failures[0])
    assert deviations(Fleet(machine), [ADDED, TRUSTED, failed], [revocation(failed.id)]) == []


@pytest.mark.parametrize(
    ("events", "revocations", "told"),
    [
        ([ADDED, TRUSTED, event(EventKind.FAILED, 3)], ["failed:3"], "1 times on the record and 0 times in truth"),
        ([ADDED, TRUSTED, event(EventKind.FAILED, 3)], [], "was not revoked"),
        ([ADDED, TRUSTED], ["failed:3"], "follows from no failure"),
        ([ADDED, TRUSTED, TRUSTED], [], "is there 2 times"),
        ([ADDED, event(EventKind.TRUSTED, 3)], [], "not numbered one after the other"),
        ([ADDED, event(EventKind.TRUSTED, 2, worker="other")], [], "had two owners"),
        ([event(EventKind.ADDED, 1, fence=2), TRUSTED], [], "under an older fence"),
        ([ADDED, TRUSTED, event(EventKind.LAPSED, 3)], [], "always answered"),
        ([ADDED, TRUSTED, event(EventKind.REFUSED, 3)], [], "was honest"),
    ],
)
def test_every_lie_of_the_record_is_noticed(machine, events, revocations, told) -> None:
    found = deviations(Fleet(machine), events, [revocation(id_) for id_ in revocations])
    assert any(told in text for text in found), found


def test_a_failure_that_is_missing_or_blames_another_is_noticed(machine) -> None:
    machine.intrude()
    assert any("0 times on the record" in text for text in deviations(Fleet(machine), [ADDED, TRUSTED], []))
    other = event(EventKind.FAILED, 3, "/usr/bin/innocent")
    assert any("does not blame" in text for text in deviations(Fleet(machine), [ADDED, TRUSTED, other], []))


def test_standings(machine) -> None:
    good = sample_result(number=2)
    assert standings(Fleet(machine), {"a": good}) == []
    assert "unknown" in standings(Fleet(machine), {})[0]
    machine.intrude()
    assert "must be failed" in standings(Fleet(machine), {"a": good})[0]


def test_the_shipped_scenarios_can_be_read() -> None:
    names = {path.stem for path in SHIPPED.glob("*.toml")}
    assert {"calm", "drift", "mass-reboot", "reconnect-storm", "hostile-few", "policy-roll-out", "renewal"} <= names
    assert all(isinstance(load(name), Scenario) for name in names)


@pytest.mark.parametrize(
    "text",
    ["agents = 0", "colour = 1", "step = [{at_s = 1, do = 'dance'}]", "step = [{at_s = 1, do = 'reconnect'}]", "=",
     "step = [{at_s = 1, do = 'renew'}]",
     "step = [{at_s = 1, do = 'run', share = 0.5, count = 1}]"],
)  # fmt: skip
def test_a_scenario_that_can_not_be_is_refused(tmp_path, text) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(f"doc = 'x'\n{text}")
    with pytest.raises(ConfigError):
        load(str(path))


def test_a_scenario_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(ConfigError, match="can not be read") as raised:
        load("no-such-scenario")
    assert "calm" in raised.value.hint
