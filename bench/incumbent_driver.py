"""``python -m bench.incumbent_driver DIRECTORY [boot | time|held|peak PATHS]``: measures the incumbent's public functions.

It runs in the incumbent's own environment and uses nothing of ours but the clock. Its output is that of
:mod:`bench.core_driver`, under the same names.
"""

from __future__ import annotations

import base64
import importlib
import json
import logging
import os
import sys
import types
from pathlib import Path
from typing import Any, Final

from bench.measuring import cpu_s, measure_making

_SECTIONS: Final = {
    "verifier": "measured_boot_imports = []",
    "tenant": "",
    "registrar": "",
    "ca": "",
    "logging": "",
}


def configure(directory: Path) -> None:
    """Give it the least configuration that it starts with, and silence: log lines would cost it time.

    Its module for OpenPGP needs a C library; only signed key files use it, which are not measured.
    """
    for section, text in _SECTIONS.items():
        file = directory / f"incumbent-{section}.conf"
        file.write_text(f"[{section}]\n{text}\n", encoding="ascii")
        os.environ[f"KEYLIME_{section.upper()}_CONFIG"] = str(file)
    sys.modules["gpg"] = types.ModuleType("gpg")
    logging.disable(logging.CRITICAL)


def _module(name: str) -> Any:
    return importlib.import_module(f"keylime.{name}")


class Incumbent:
    """Its functions, with the samples in ``directory``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ima = _module("ima.ima")
        _module("mba.mba").load_imports()
        self._signatures = _module("ima.file_signatures")
        self._state = _module("agentstates").AgentAttestState
        self._sha256 = _module("common.algorithms").Hash.SHA256

    def text(self, name: str) -> str:
        """Return the content of a file."""
        return self._directory.joinpath(name).read_text(encoding="ascii")

    def measure(self) -> dict[str, float]:
        """Return its figures by name; those that end in ``_per_s`` are rates, the others microseconds."""
        figures: dict[str, float] = {}
        # It remembers nothing of other agents: cold and warm are one.
        rate = self._log("ima-ng", 100_000, self._signatures.ImaKeyrings())
        figures["ima_cold_entries_per_s"] = figures["ima_warm_entries_per_s"] = rate
        for kind in ("rsa", "ecdsa"):
            figures[f"ima_sig_{kind}_entries_per_s"] = self._log(f"ima-sig-{kind}", 0, self._keyrings(kind))
        for kind in ("rsa2048", "p256"):
            figures[f"quote_{kind}_per_s"] = self._quotes(kind)
        quote_us = 1e6 / figures["quote_rsa2048_per_s"]
        figures["poll_no_news_0_us"] = quote_us
        for paths, name in ((10_000, "10k"), (100_000, "100k")):
            figures[f"poll_no_news_{name}_us"] = quote_us + self._poll(paths)
        return figures

    def measure_boot(self) -> dict[str, float]:
        """Return how many boot logs it reads and judges in a second. It needs more of the machine than all else."""
        return dict.fromkeys(("eventlog_policy_per_s", "eventlog_policy_cold_per_s"), self._boot())

    def compiling(self, what: str, paths: int) -> dict[str, float]:
        """Return what it takes to check and load a policy of ``paths`` paths, as :func:`bench.core_driver.compiling`."""
        text = self.text(f"incumbent-policy-{paths}.json")
        if what == "time":
            return {what: measure_making(what, lambda: self._ima.runtime_policy_db_contents("x", text))}
        return {what: measure_making(what, lambda: self._ima.deserialize_runtime_policy(text))}

    def _keyrings(self, kind: str) -> Any:
        serialization = importlib.import_module("cryptography.hazmat.primitives.serialization")
        ring = self._signatures.ImaKeyring()
        ring.add_pubkey(serialization.load_pem_public_key(self.text(f"{kind}.pem").encode()), None)
        rings = self._signatures.ImaKeyrings()
        rings.set_tenant_keyring(ring)
        return rings

    def _log(self, name: str, paths: int, keyrings: Any) -> float:
        facts = json.loads(self.text(f"{name}.json"))
        lines = self.text(f"{name}.txt").split("\n")
        policy = self._ima.deserialize_runtime_policy(self.text(f"incumbent-policy-{paths}.json"))

        def checked() -> None:
            _, failure = self._ima.process_measurement_list(
                self._state("a"), lines, policy, pcrval=facts["pcr"], ima_keyrings=keyrings, hash_alg=self._sha256
            )
            _must_be_good(failure)

        return float(facts["entries"] / cpu_s(checked, runs=3))

    def _quotes(self, kind: str) -> float:
        facts = json.loads(self.text(f"quotes-{kind}.json"))
        policy = json.dumps(facts["incumbent_policy"])
        tpm = _module("tpm.tpm_main").Tpm()

        def checked() -> None:
            state = self._state("a")
            for quote in facts["incumbent_quotes"]:
                key = facts["incumbent_key"]
                _must_be_good(tpm.check_quote(state, quote["nonce"], key, quote["quote"], facts["ak"], policy))

        return len(facts["incumbent_quotes"]) / cpu_s(checked)

    def _poll(self, paths: int) -> float:
        """Return the microseconds that the policy costs at each poll that brings no new entry."""
        text = self.text(f"incumbent-policy-{paths}.json")
        pcr = "00" * 32

        def polled() -> None:
            policy = self._ima.deserialize_runtime_policy(text)
            self._ima.process_measurement_list(self._state("a"), [""], policy, pcrval=pcr, hash_alg=self._sha256)

        return 1e6 * cpu_s(polled, runs=3)

    def _boot(self) -> float:
        mba = _module("mba.mba")
        policies = _module("mba.elchecking.policies")
        log = base64.b64encode(self._directory.joinpath("boot.bin").read_bytes()).decode("ascii")
        reference = json.loads(self.text("boot.json"))["reference"]

        def checked() -> None:
            for _ in range(5):
                _, _, events, failure = mba.bootlog_parse(log, "sha256")
                _must_be_good(failure)
                if reason := policies.evaluate("example", reference, events):
                    raise AssertionError(f"the incumbent refused the good boot log: {reason}")

        return 5 / cpu_s(checked)


def _must_be_good(failure: Any) -> None:
    if failure:
        raise AssertionError(f"the incumbent refused what is good: {failure.get_event_ids()}")


if __name__ == "__main__":
    samples = Path(sys.argv[1])
    configure(samples)
    incumbent = Incumbent(samples)
    match sys.argv[2:]:
        case ["boot"]:
            found = incumbent.measure_boot()
        case [what, paths]:
            found = incumbent.compiling(what, int(paths))
        case _:
            found = incumbent.measure()
    sys.stdout.write(json.dumps(found) + "\n")
