"""Machines of their own for parts of an installation: network namespaces on a bridge, each of which can be cut off."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Final

from devtools.site import Host

_NETWORK: Final = "10.213.77"
_GATEWAY: Final = 254


def obstacle() -> str:
    """Return why there can be no hosts here; empty when there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need the program `ip` (Debian: iproute2)"
    name = f"atprobe{os.getpid() % 100_000}"
    made = subprocess.run(["ip", "link", "add", name, "type", "bridge"], check=False, capture_output=True)
    if made.returncode:
        return f"no bridge can be made here: {made.stderr.decode(errors='replace').strip()}"
    _ip("link", "del", name)
    return ""


class Hosts:
    """``count`` hosts that reach each other and this machine. :meth:`close` takes them away."""

    def __init__(self, count: int) -> None:
        self._tag = f"at{os.getpid() % 100_000}"
        self._count = count
        self._made: list[int] = []
        self._bridge = False
        try:
            self._make()
        except BaseException:
            self.close()
            raise

    def _make(self) -> None:
        _ip("link", "add", self._tag, "type", "bridge")
        self._bridge = True
        _ip("addr", "add", f"{_NETWORK}.{_GATEWAY}/24", "dev", self._tag)
        _ip("link", "set", self._tag, "up")
        for number in range(1, self._count + 1):
            name, outer = self._name(number), self._outer(number)
            _ip("netns", "add", name)
            self._made.append(number)
            _ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", outer, "master", self._tag)
            _ip("link", "set", outer, "up")
            for words in (["addr", "add", f"{self._address(number)}/24", "dev", "eth0"], ["link", "set", "eth0", "up"]):
                _ip("-n", name, *words)
            _ip("-n", name, "link", "set", "lo", "up")

    @property
    def all(self) -> list[Host]:
        """The hosts, in order."""
        return [Host(self._address(number), ("ip", "netns", "exec", self._name(number))) for number in self._made]

    def cut(self, index: int) -> None:
        """Take a host off the network: packets to and from it vanish. What runs there still reaches itself."""
        _ip("link", "set", self._outer(index + 1), "down")

    def mend(self, index: int) -> None:
        """Put a host back on the network."""
        _ip("link", "set", self._outer(index + 1), "up")

    def close(self) -> None:
        """Remove hosts and bridge; their processes must have ended."""
        for number in self._made:
            # The pair of interfaces goes with its host.
            _ip("netns", "del", self._name(number))
        self._made.clear()
        if self._bridge:
            self._bridge = False
            _ip("link", "del", self._tag)

    def _name(self, number: int) -> str:
        return f"{self._tag}-{number}"

    def _outer(self, number: int) -> str:
        return f"{self._tag}v{number}"

    @staticmethod
    def _address(number: int) -> str:
        return f"{_NETWORK}.{number}"


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], check=False, capture_output=True)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.decode(errors='replace').strip()}")
