"""Cuts off every machine whose attestation fails: python docs/sdk-example.py nats://127.0.0.1:4222 DATA_DIR/trusted"""

import asyncio
import sys

from attestream.client import connect
from attestream.signing import TrustedKeys


async def main(url: str, trusted: str) -> None:
    async with connect(url, keys=TrustedKeys.from_directory(trusted)) as client:
        # The bus keeps our place under this name: what happened while we were away comes first.
        async for item in client.revocations(durable="sdk-example"):
            culprits = [finding.culprit for finding in item.revocation.findings]
            print(f"cutting off {item.agent_id} because of {culprits}", flush=True)
            await item.ack()  # only now is it not delivered again


asyncio.run(main(*sys.argv[1:]))
