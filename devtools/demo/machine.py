"""One emulated machine: a TPM, an IMA log, and the agent that attests both."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from attestream.embedded.stack import service_argv
from attestream.installation.places import Installation
from devtools.demo.programs import Program, stop
from devtools.ima_emulator import ImaEmulator
from devtools.swtpm import Swtpm
from schemas.roles import Role

BOOT_PROGRAMS: Final = ("/usr/lib/systemd/systemd", "/usr/bin/bash", "/usr/sbin/sshd", "/usr/bin/python3")
"""What every machine runs when it boots."""

_CUT_OFF: Final = b"its identity on the bus was revoked"

# Appends what it is given, one document a line; a shell starts faster than an interpreter.
_HOOK: Final = ["/bin/sh", "-c", '{ cat; echo; } >>"$0"']


class Machine:
    """A machine called ``name``. Its agent is given what every new machine of the installation ``place`` is given."""

    def __init__(
        self,
        name: str,
        directory: Path,
        logs: Path,
        environment: Mapping[str, str],
        *,
        ak: str,
        place: Installation,
    ) -> None:
        self.name = name
        self.ak = ak
        self.tpm = Swtpm(directory / "tpm")
        self.ima_directory = directory / "ima"
        self._hook_file = directory / "revocations.jsonl"
        self._config = directory / "agent.toml"
        self._place = place
        self._directory = directory
        self._emulator: ImaEmulator | None = None
        self.agent = Program(
            f"agent-{name}", service_argv("agent", str(self._config)), environment, logs / f"agent-{name}.log"
        )

    def manufacture(self) -> None:
        """Make the TPM's state and the certificate of its endorsement key. Blocks for about a second."""
        self._directory.mkdir(parents=True)
        Swtpm.launch(self.tpm.state_dir).stop()

    async def boot(self, also: Iterable[str] = ()) -> None:
        """Switch the machine on, or reboot it: reset the TPM, begin a new IMA log, run the usual programs, start the agent.

        :raises TpmError: when the TPM does not come up.
        """
        self.shut_down()
        self.tpm.start()
        self._emulator = ImaEmulator(self.ima_directory, self.tpm.tcti)
        await asyncio.to_thread(self._emulator.boot)
        for path in (*BOOT_PROGRAMS, *also):
            await self.run(path)
        self._config.write_text(self._agent_config(), encoding="utf-8")
        self.agent.start()

    async def run(self, path: str) -> None:
        """Run the program at ``path``: the IMA emulator appends it to the log and extends PCR 10."""
        assert self._emulator is not None
        await asyncio.to_thread(self._emulator.run, path, content_of(path))

    @property
    def ima_log(self) -> bytes:
        """The binary IMA log as it stands."""
        assert self._emulator is not None
        return self._emulator.binary_log.read_bytes()

    @property
    def ima_entries(self) -> int:
        """Number of entries of the IMA log."""
        assert self._emulator is not None
        return len(self._emulator.ascii_log.read_text(encoding="utf-8").splitlines())

    def heard(self) -> list[dict[str, Any]]:
        """Return the revocations that the agent has handed to its hook."""
        if not self._hook_file.exists():
            return []
        *whole, _ = self._hook_file.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in whole]

    @property
    def cut_off(self) -> bool:
        """Whether the bus has ended the agent's connection because its identity is void, as the agent's log tells."""
        return self.agent.log.exists() and _CUT_OFF in self.agent.log.read_bytes()

    def shut_down(self) -> None:
        """Stop the agent and switch the TPM off."""
        stop([self.agent])
        self.tpm.stop()

    def _agent_config(self) -> str:
        settings = {
            "id": self.name,
            "tcti": self.tpm.tcti,
            "data_dir": "agent",
            "ek": "rsa2048",
            "ak": self.ak,
            "ima_log": str(self.ima_directory / "binary_runtime_measurements"),
            "boot_log": "",
            "enrolment_credentials": str(self._place.credentials(Role.ENROLMENT)),
            "revocation_hook": [*_HOOK, str(self._hook_file)],
        }
        # JSON's strings and lists are TOML's, as long as no character needs a surrogate pair.
        lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in settings.items()]
        trust = ["[trust]", f"root_keys = {json.dumps([str(self._place.root_public)], ensure_ascii=False)}"]
        return "\n".join(["# This machine's agent.", *trust, "[agent]", *lines, ""])


def content_of(path: str) -> bytes:
    """Return what the file at ``path`` holds on every machine of the demonstration."""
    return f"the program {path}\n".encode()
