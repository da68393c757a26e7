"""The SDK on a real bus: what results and the services' answers amount to."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from attestream.bus.connection import Bus
from attestream.client import (
    Client,
    Rejected,
    connect,
    unverified,
)
from attestream.client.standing import standing, view
from attestream.embedded.nats import NatsServer
from attestream.errors import (
    BusError,
    MalformedError,
    UnknownAgentError,
)
from devtools.sample_result import sample_result
from schemas import subjects
from schemas.commands import AgentStatus, AgentStatusPage
from schemas.enrolment import AgentQuery, AgentsQuery, Identity, IdentityPage
from schemas.events import Finding, Result, Standing


def now() -> int:
    return time.time_ns() // 1_000_000


@pytest.fixture
async def client(bus: Bus, nats_server: NatsServer) -> AsyncIterator[Client]:
    async with connect(nats_server.url, trust=unverified()) as connected:
        yield connected


def a_status(agent_id: str, value: Standing, *, event_number: int = 1) -> AgentStatus:
    return AgentStatus(
        agent_id=agent_id,
        standing=value,
        policy="p@1",
        interval_ms=1000,
        lease_ms=30_000,
        enrolment=1,
        seq=5,
        attestations=5,
        ima_entries=3,
        event_number=event_number,
        last_at=now(),
    )


def an_identity(agent_id: str) -> Identity:
    return Identity(
        agent_id=agent_id, ek_public=b"", ak_public=b"", transport_key=b"", enrolment=1, ek_trust="accepted", at=now()
    )


class TestResults:
    async def test_a_lapse_arrives_as_unknown_though_no_verifier_lives(self, bus: Bus, client: Client) -> None:
        """CVE-2022-3500 and keylime#1091: silence must not read as trusted."""
        results = client.results("siem")
        await bus.publish_durable(subjects.result("host.1"), sample_result("host.1"), message_id="1", ttl_s=1)
        good = await anext(results)
        assert (good.agent_id, good.standing, good.lapsed) == ("host.1", Standing.TRUSTED, False)
        await good.ack()
        gone = await asyncio.wait_for(anext(results), 30)
        assert (gone.agent_id, gone.standing, gone.lapsed) == ("host.1", Standing.UNKNOWN, True)

    async def test_a_result_past_its_time_reads_unknown_even_if_the_broker_still_has_it(
        self, bus: Bus, client: Client
    ) -> None:
        await bus.publish_durable(subjects.result("a"), sample_result("a", life_ms=-1), message_id="1")
        item = await anext(client.results())
        assert item.standing is Standing.UNKNOWN
        assert item.lapsed

    async def test_a_result_filed_under_another_agent_is_rejected(self, bus: Bus, client: Client) -> None:
        await bus.publish_durable(subjects.result("a"), sample_result("b"), message_id="1")
        await bus.publish_durable(subjects.result("c"), sample_result("c"), message_id="2")
        rejected: list[Rejected] = []
        assert (await anext(client.results(on_rejected=rejected.append))).agent_id == "c"
        assert len(rejected) == 1

    async def test_an_impossible_agent_id_is_refused(self, client: Client) -> None:
        with pytest.raises(MalformedError):
            client.results(agent_id="a>b")
        with pytest.raises(MalformedError):
            client.events(agent_id="*")


class TestStanding:
    """Only a live result says trusted."""

    @pytest.mark.parametrize(
        ("result", "status", "enrolled", "expected"),
        [
            (sample_result("a"), a_status("a", Standing.TRUSTED), True, Standing.TRUSTED),
            (sample_result("a"), None, False, Standing.TRUSTED),
            (None, a_status("a", Standing.TRUSTED), True, Standing.UNKNOWN),
            (None, a_status("a", Standing.FAILED), True, Standing.FAILED),
            (None, a_status("a", Standing.STOPPED), True, Standing.STOPPED),
            (None, a_status("a", Standing.PENDING), True, Standing.PENDING),
            (None, None, True, Standing.ENROLLED),
            (None, None, False, Standing.UNKNOWN),
            (sample_result("a", number=4), a_status("a", Standing.FAILED, event_number=5), True, Standing.FAILED),
            (sample_result("a", Standing.FAILED, number=5), a_status("a", Standing.TRUSTED), True, Standing.FAILED),
            (sample_result("a", number=5), a_status("a", Standing.FAILED, event_number=4), True, Standing.TRUSTED),
        ],
    )
    def test_what_sources_amount_to(
        self, result: Result | None, status: AgentStatus | None, enrolled: bool, expected: Standing
    ) -> None:
        assert standing(result, status, enrolled=enrolled) is expected

    def test_without_a_verifier_an_enrolment_does_not_say_enrolled(self) -> None:
        assert view("a", None, None, an_identity("a"), complete=False).standing is Standing.UNKNOWN
        assert view("a", None, None, an_identity("a"), complete=True).standing is Standing.ENROLLED

    async def test_a_fleet_is_read_in_pages_and_put_together(
        self, bus: Bus, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("attestream.client.standing.PAGE", 2)
        rows = [a_status(f"a{number}", Standing.TRUSTED) for number in range(5)]

        async def statuses(query: AgentsQuery) -> AgentStatusPage:
            left = [row for row in rows if row.agent_id > query.after]
            return AgentStatusPage(agents=left[: query.limit], more=len(left) > query.limit)

        async def identities(query: AgentsQuery) -> IdentityPage:
            return IdentityPage(identities=[] if query.after else [an_identity("new")], more=False)

        await bus.publish_durable(subjects.result("a3"), sample_result("a3"), message_id="1")
        await bus.publish_durable(subjects.result("a4"), sample_result("a4"), message_id="2", ttl_s=1)
        silent = await client.fleet(timeout_s=0.5)
        assert [(each.agent_id, each.standing) for each in silent.agents] == [
            ("a3", Standing.TRUSTED),
            ("a4", Standing.TRUSTED),
        ]
        assert not silent.verifier
        await bus.serve(subjects.QUERY_VERIFIER_AGENTS, "v", AgentsQuery, statuses)
        await bus.serve(subjects.QUERY_REGISTRAR_AGENTS, "r", AgentsQuery, identities)
        await bus.nc.flush()
        results = client.results(agent_id="a4")
        while not (await asyncio.wait_for(anext(results), 30)).lapsed:
            pass
        fleet = await client.fleet()
        assert {each.agent_id: each.standing for each in fleet.agents} == {
            "a0": Standing.UNKNOWN,
            "a1": Standing.UNKNOWN,
            "a2": Standing.UNKNOWN,
            "a3": Standing.TRUSTED,
            "a4": Standing.UNKNOWN,
            "new": Standing.ENROLLED,
        }

    async def test_an_agent_that_nobody_knows_and_one_that_nobody_can_know(self, bus: Bus, client: Client) -> None:
        with pytest.raises(BusError):
            await client.agent("a", timeout_s=0.2)

        async def unknown(query: AgentQuery) -> AgentStatus:
            raise UnknownAgentError(f"no {query.agent_id}")

        await bus.serve(subjects.QUERY_VERIFIER_AGENT, "v", AgentQuery, unknown)
        await bus.serve(subjects.QUERY_REGISTRAR_AGENT, "r", AgentQuery, unknown)
        await bus.nc.flush()
        with pytest.raises(UnknownAgentError):
            await client.agent("a")

    async def test_findings_of_a_live_result_are_shown(self, bus: Bus, client: Client) -> None:
        finding = Finding(code="c", layer="runtime", severity="failure", culprit="/x", message="m", remedy="r")
        result = sample_result(findings=[finding])
        await bus.publish_durable(subjects.result("a"), result, message_id="1")
        assert (await client.agent("a", timeout_s=0.2)).findings == [finding]
