"""Cut off machines that are revoked: python docs/examples/cut_off.py ROOT_KEY [URL]"""

import asyncio
import sys

from attestream.client import connect, trusted


async def main(root_key: str, url: str = "nats://127.0.0.1:4222") -> None:
    async with connect(url, trust=trusted(root_key)) as client:
        async for revoked in client.revocations(durable="cut-off"):
            culprits = ", ".join(finding.culprit or finding.code for finding in revoked.revocation.findings)
            print(f"{revoked.agent_id} is revoked: {culprits}", flush=True)
            # Unacknowledged revocations come again, also after a restart of this program.
            await revoked.ack()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
