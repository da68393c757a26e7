"""Who ends a failure is the policy's to say, and the signed event tells it to whoever cuts agents off."""

import pytest

from devtools.pool import allowing, digest_of
from schemas.events import EventKind, Standing


@pytest.mark.parametrize("recovery", ["operator", "automatic"])
async def test_a_good_appraisal_ends_a_failure_where_the_policy_lets_it(pool, tenant, fleet, recovery):
    await pool.start("one")
    assert (await tenant.push("base", allowing("boot_aggregate", recovery=recovery))).ok
    assert (await tenant.add("agent-0", interval_ms=200)).ok
    await tenant.becomes("agent-0", Standing.TRUSTED, 30)
    agent = fleet.agents["agent-0"]
    agent.run("/opt/intruder", bytes(32))
    await tenant.becomes("agent-0", Standing.FAILED, 30)
    (failed,) = [event for event in await tenant.events("agent-0") if event.kind is EventKind.FAILED]
    assert failed.recovery == recovery
    agent.reboot()
    agent.run("boot_aggregate", digest_of("boot_aggregate"))
    if recovery == "automatic":
        await tenant.becomes("agent-0", Standing.TRUSTED, 30)
        assert (await tenant.events("agent-0"))[-1].kind is EventKind.RECOVERED
    else:
        await fleet.hello("agent-0")
        assert await tenant.standing("agent-0") is Standing.FAILED
