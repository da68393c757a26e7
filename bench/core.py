"""What the appraisal core does in a second of CPU time, with the incumbent's functions beside it."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

from bench.incumbent import Incumbent, UnavailableError, run_driver
from bench.report import Figure, Report, against
from bench.samples import ENTRIES, LARGEST_FOR_INCUMBENT, SIGNED, write_samples
from bench.stack import BenchError

SIZES: Final = {100_000: "100k", 1_000_000: "1m"}
MEGABYTE: Final = 1_000_000


class Goal(NamedTuple):
    """What a figure is measured against."""

    value: float
    unit: str = ""
    more: bool = True


_ROWS: Final[dict[str, tuple[str, Goal | None]]] = {
    "ima_cold_entries_per_s": ("IMA entries, cold", Goal(250_000, "/s")),
    "ima_warm_entries_per_s": ("IMA entries, warm", Goal(800_000, "/s")),
    "ima_sig_rsa_entries_per_s": ("IMA entries with RSA-2048 signatures", None),
    "ima_sig_ecdsa_entries_per_s": ("IMA entries with P-256 signatures", None),
    "eventlog_policy_cold_per_s": ("boot logs, nothing like them seen before (cold)", None),
    "eventlog_policy_per_s": ("new boot logs of a known model (warm)", None),
    "quote_rsa2048_per_s": ("quotes, RSA-2048", None),
    "quote_p256_per_s": ("quotes, P-256", None),
    "poll_no_news_0_us": ("poll without news, no paths", None),
    "poll_no_news_10k_us": ("poll without news, 10,000 paths", None),
    "poll_no_news_100k_us": ("poll without news, 100,000 paths", None),
    "policy_100k_compile_ms": ("policy of 100,000 paths compiled", Goal(500, " ms", more=False)),
    "policy_100k_mb": ("... memory that it holds", Goal(40, " MB", more=False)),
    "policy_100k_peak_mb": ("... memory while compiling", None),
    "policy_1m_compile_ms": ("policy of 1,000,000 paths compiled", None),
    "policy_1m_mb": ("... memory that it holds", None),
    "policy_1m_peak_mb": ("... memory while compiling", None),
}
_TIMES_GOALS: Final = {"eventlog_policy_cold_per_s": 40.0, "eventlog_policy_per_s": 40.0}

_HOW: Final = (
    "CPU time of one process on one core, its children included, medians of 3 to 5 runs. IMA: {entries:,} entries of ima-ng "
    "against a policy of as many paths, cold: no entry was ever seen before, warm: another machine showed the same log; "
    "{signed:,} entries of ima-sig, each with another signature. Boot log: 40 KB of a Secure Boot machine, replayed, read "
    "and judged by the policy `example` with a reference state made from one of the model, each of another machine, cold: "
    "no event was ever seen before, warm: others of the model showed theirs. Quotes: signature, nonce, 11 PCR values and "
    "their policy. Poll without news: what "
    "the core does for an answer with known PCR values (RSA-2048); the incumbent's quote check and its reading of the "
    "policy. Compiling: from the document; the incumbent's check at upload. Times: above 1, ours is better."
)


async def report_core(report: Report) -> None:
    """Measure and show the core.

    :raises BenchError: when our own side fails.
    """
    with tempfile.TemporaryDirectory(prefix="attestream-bench-") as name:
        directory = Path(name)
        write_samples(directory)
        try:
            ours = _ours(directory)
        except UnavailableError as error:
            raise BenchError(str(error)) from error
        theirs, missing = _theirs(directory)
    figures: dict[str, Figure] = {}
    rows = []
    for key, (what, goal) in _ROWS.items():
        value = ours[key]
        figures[key] = _rounded(value)
        times = ""
        if key in theirs:
            ratio = value / theirs[key] if key.endswith("_per_s") else theirs[key] / value
            figures[f"{key}_vs_keylime"] = round(ratio, 2)
            figures[f"{key}_of_keylime"] = _rounded(theirs[key])
            wanted = _TIMES_GOALS.get(key)
            times = against(ratio, wanted, more=True, unit=" x") if wanted else f"{ratio:,.3g} x"
        shown = against(value, goal.value, more=goal.more, unit=goal.unit) if goal else f"{_rounded(value):,}{_unit(key)}"
        rows.append((what, shown, f"{_rounded(theirs[key]):,}{_unit(key)}" if key in theirs else "-", times))
    caption = _HOW.format(entries=ENTRIES, signed=SIGNED) + "".join(f" Not measured: {why}." for why in missing)
    report.table("core: the appraisal core", ["", "Attestream", "Keylime 7.14.3", "times"], rows, caption, figures)


def _ours(directory: Path) -> dict[str, float]:
    def run(*arguments: str) -> dict[str, float]:
        return run_driver(sys.executable, ["bench.core_driver", str(directory), *arguments])

    figures = run()
    for paths, short in SIZES.items():
        figures |= _policy(short, {what: run(what, str(paths))[what] for what in ("time", "held", "peak")})
    return figures


def _theirs(directory: Path) -> tuple[dict[str, float], list[str]]:
    """Return the incumbent's figures, and why some or all are missing."""
    figures: dict[str, float] = {}
    missing = []
    place = str(directory)
    try:
        incumbent = Incumbent()
        figures |= incumbent.run(place)
        found = {what: incumbent.run(place, what, str(LARGEST_FOR_INCUMBENT))[what] for what in ("time", "held", "peak")}
        figures |= _policy("100k", found)
    except UnavailableError as error:
        return figures, [f"the incumbent ({error})"]
    try:
        incumbent.provide_boot_library()
        figures |= incumbent.run(place, "boot")
    except UnavailableError as error:
        missing.append(f"the incumbent's boot logs ({error})")
    return figures, missing


def _policy(short: str, found: dict[str, float]) -> dict[str, float]:
    return {
        f"policy_{short}_compile_ms": 1000 * found["time"],
        f"policy_{short}_mb": found["held"] / MEGABYTE,
        f"policy_{short}_peak_mb": found["peak"] / MEGABYTE,
    }


def _rounded(value: float) -> float:
    return round(value) if value >= 100 else round(value, 1)


def _unit(key: str) -> str:
    return {"s": "/s", "us": " us", "ms": " ms", "mb": " MB"}[key.rpartition("_")[2]]
