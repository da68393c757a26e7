"""The commands ``policy create``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from attestream.cli.documents import input_path, output_option, progress, read, read_text, write_document
from attestream.cli.session import json_option
from attestream.errors import AttestreamError

if TYPE_CHECKING:
    from attestream.reference.collected import Collected

_ALGORITHMS: Final = ("sha1", "sha224", "sha256", "sha384", "sha512", "sha3-256", "sha3-384", "sha3-512")
_BANKS: Final = ("sha256", "sha384", "sha512")
_PARTS: Final = ("keys", "dbx", "applications", "sections", "files")
_tree = click.Path(exists=True, file_okay=False, path_type=Path)
_file = click.Path(exists=True, dir_okay=False, path_type=Path)
_place = click.Path(exists=True, path_type=Path)

_base = click.option("--base", type=input_path, help="Policy document to build on.")
_bank = click.option("--bank", type=click.Choice(_BANKS), default="sha256", show_default=True, help="PCR bank to be quoted.")
_description = click.option("--description", default="", help="What the policy is for.")


@click.group()
def create() -> None:
    """Make policies from what machines run, or will run."""


@create.command()
@click.option("--tree", "trees", type=_tree, multiple=True, help="Root of a file system, such as / or a mounted image.")
@click.option("--mounted-at", default="/", show_default=True, help="Where the trees are on the machines.")
@click.option("--skip", multiple=True, metavar="PATH", help="Path in the trees to leave out, such as /home.")
@click.option("--initrd", "initrds", type=_file, multiple=True, help="Initial RAM disk.")
@click.option("--deb", "debs", type=_place, multiple=True, help="Debian package, directory of them, or local repository.")
@click.option("--rpm", "rpms", type=_place, multiple=True, help="RPM package, directory of them, or local repository.")
@click.option("--ima-log", "logs", type=input_path, multiple=True, help="IMA log of a machine in good order.")
@click.option("--list", "lists", type=input_path, multiple=True, help="Flat list: digest and path in each line.")
@click.option("--exclude", "excludes", multiple=True, metavar="REGEX", help="Paths that may be anything.")
@click.option("--exclude-list", "exclude_lists", type=input_path, multiple=True, help="File with one REGEX in each line.")
@click.option(
    "--algorithm",
    type=click.Choice(_ALGORITHMS),
    default="sha256",
    show_default=True,
    help="Hash that the kernel logs.",
)
@click.option("--merged-usr/--split-usr", default=False, help="Whether packages' /bin, /lib... are links into /usr.")
@click.option("--boot-aggregate/--no-boot-aggregate", default=True, help="Whether to take the first entry of IMA logs.")
@click.option("--workers", type=click.IntRange(0, 256), default=0, help="Threads that hash; 0 for one per processor.")
@_base
@_bank
@_description
@output_option
@json_option
def runtime(base: Path | None, bank: str, description: str, target: Path | None, as_json: bool, **sources: Any) -> None:
    """Make a policy of the files that machines may run. Sources of all kinds can be given, and more than once.

    Nothing is unpacked, and links are not followed. Digests that are too weak to tell files apart are not taken.
    """
    from attestream.reference.collected import Collected

    if not any(sources[kind] for kind in ("trees", "initrds", "debs", "rpms", "logs", "lists")) and base is None:
        raise click.UsageError("give at least one source, such as --tree / or --ima-log FILE")
    into = Collected()
    _add_trees(into, sources)
    _add_archives(into, sources)
    _add_lists(into, sources)
    document = into.document(base=_load_base(base), bank=bank, description=description)
    _check(document)
    summary = f"{into.values} reference values for {len(into.digests)} paths"
    write_document(document, target, into.remarks, as_json=as_json, summary=summary)


def _add_trees(into: Collected, sources: dict[str, Any]) -> None:
    from attestream.reference.tree import hash_tree

    for root in sources["trees"]:
        with progress(f"hashing {root}") as shown:
            found = hash_tree(
                root,
                algorithm=sources["algorithm"],
                skip=sources["skip"],
                workers=sources["workers"],
                mounted_at=sources["mounted_at"],
                progress=shown,
            )
        for path, digests in found.digests.items():
            for digest in digests:
                into.add(path, digest)
        into.remarks += found.remarks


def _add_archives(into: Collected, sources: dict[str, Any]) -> None:
    from attestream.reference.cpio import hash_initrd
    from attestream.reference.repositories import add_debs, add_rpms

    algorithm, merged = sources["algorithm"], sources["merged_usr"]
    for path in sources["initrds"]:
        with _named(path), path.open("rb") as file:
            into.add_all(hash_initrd(file, algorithm))
    for path in sources["debs"]:
        with progress(f"reading {path}") as shown:
            add_debs(path, into, algorithm=algorithm, merged_usr=merged, progress=shown)
    for path in sources["rpms"]:
        with progress(f"reading {path}") as shown:
            add_rpms(path, into, merged_usr=merged, progress=shown)


def _add_lists(into: Collected, sources: dict[str, Any]) -> None:
    from attestream.interop.excludes import read_exclude_list
    from attestream.reference.lists import add_flat_list, add_measurements

    for path in sources["logs"]:
        with _named(path):
            add_measurements(read(path), into, boot_aggregate=sources["boot_aggregate"])
    for path in sources["lists"]:
        with _named(path):
            add_flat_list(read_text(path), into)
    listed = [text for path in sources["exclude_lists"] for text in read_exclude_list(read_text(path))]
    into.excludes.update(dict.fromkeys([*sources["excludes"], *listed]))


class _named:  # noqa: N801  # reads as a statement
    """Says in which file an error is."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        """Begin to watch."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Put the file's name before the message."""
        if isinstance(error, AttestreamError):
            error.message = f"{self._path}: {error.message}"


def _load_base(path: Path | None) -> dict[str, Any] | None:
    from attestream.appraisal.document import load

    return None if path is None else load(read(path))


def _check(document: dict[str, Any]) -> None:
    """Let nothing out that could not be pushed."""
    import json

    from attestream.appraisal.policy import compile_policy

    if not document.get("layers"):
        compile_policy(json.dumps(document, separators=(",", ":")).encode("ascii"))


@create.command()
@click.argument("log", type=input_path)
@click.option("--without-secure-boot", is_flag=True, help="Accept a log that shows Secure Boot off.")
@click.option("--bare", is_flag=True, help="Print what was made alone, not a policy with it.")
@click.option("--settings", is_flag=True, help="Make settings (keys, images, sections), not a reference state.")
@click.option("--without", type=click.Choice(_PARTS), multiple=True, help="Part of the settings to leave open.")
@click.option("--command-line", default="", metavar="REGEX", help="For the kernel's command lines, as a setting.")
@click.option("--logged-command-lines", is_flag=True, help="Allow the command lines of the log and no others, as a setting.")
@click.option("--load-options", default="", metavar="TEXT", help="Of a kernel that the firmware starts: /proc/cmdline.")
@click.option("--phase", "phases", multiple=True, metavar="NAME", help="What the system measures into PCR 11, in order.")
@click.option(
    "--pcrs", default="0-9", show_default=True, metavar="LIST", help="PCRs that the log must explain, as a setting."
)
@_base
@_bank
@_description
@output_option
@json_option
def boot(
    log: Path,
    settings: bool,
    bare: bool,
    base: Path | None,
    bank: str,
    description: str,
    target: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Make a boot policy from the boot LOG of a machine in good order (binary_bios_measurements).

    It is a reference state of the boot policy `example`, for shim and GRUB; with --settings it is what a boot must be like
    without a boot policy: Secure Boot, keys, images, sections of unified kernel images.

    With --base the boot is allowed besides those that the base allows: give the policy of before to allow both the current
    and the next boot.
    """
    from attestream.reference.boot import with_reference_state, with_settings

    below = _load_base(base)
    bank = below.get("bank", bank) if below is not None else bank
    remarks: list[str] = []
    if not settings:
        _refuse_settings()
        made = _reference_state(log, without_secure_boot=options["without_secure_boot"])
        document = with_reference_state(made, base=below, bank=bank, description=description)
        summary = f"{len(document['boot']['reference_states'])} reference states"
    else:
        made, remarks = _learnt(log, bank, options)
        pcrs = _parse_pcrs(options["pcrs"])
        document = with_settings(made, base=below, bank=bank, pcrs=pcrs, description=description)
        summary = f"{len(document['boot'].get('boots', []))} boots"
    if not bare:
        _check(document)
    write_document(made if bare else document, target, remarks, as_json=as_json, summary=summary)


def _refuse_settings() -> None:
    """Refuse options that would have no effect."""
    context = click.get_current_context()
    for name in ("without", "command_line", "logged_command_lines", "load_options", "phases", "pcrs"):
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            raise click.UsageError(
                f"--{name.removesuffix('s') if name == 'phases' else name.replace('_', '-')} needs --settings"
            )


def _reference_state(log: Path, *, without_secure_boot: bool) -> dict[str, Any]:
    from attestream.uefi.policy.create import create_reference_state

    with _named(log):
        return create_reference_state(read(log), without_secureboot=without_secure_boot)


def _learnt(log: Path, bank: str, options: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    from attestream.appraisal.boot_learning import Given, expectations_from_log

    if options["command_line"] and options["logged_command_lines"]:
        raise click.UsageError("give either --command-line or --logged-command-lines")
    given = Given(**{name: options[name] for name in Given._fields})
    with _named(log):
        return expectations_from_log(read(log), bank, given)


@create.command()
@click.argument("files", type=input_path, nargs=-1, required=True)
@click.option("--pcrs", default="0-7", show_default=True, metavar="LIST", help="PCRs to take, such as 0-7,14.")
@_base
@_bank
@_description
@output_option
@json_option
def pcr(
    files: tuple[Path, ...],
    pcrs: str,
    base: Path | None,
    bank: str,
    description: str,
    target: Path | None,
    as_json: bool,
) -> None:
    """Make a policy of the PCR values in FILES: each may be what tpm2_pcrread prints, a quote, evidence, or JSON.

    The values of every file are allowed.
    """
    from attestream.reference.pcrs import Values, pcr_document, read_values

    wanted = _parse_pcrs(pcrs)
    sources: list[Values] = []
    for path in files:
        with _named(path):
            sources.append(read_values(read(path)))
    document = pcr_document(sources, bank=bank, pcrs=wanted, base=_load_base(base), description=description)
    _check(document)
    write_document(document, target, [], as_json=as_json, summary=f"values of {len(wanted)} PCRs from {len(files)} files")


def _parse_pcrs(text: str) -> list[int]:
    found: set[int] = set()
    for part in text.split(","):
        bounds = re.fullmatch(r"\s*(\d{1,2})(?:-(\d{1,2}))?\s*", part)
        first, last = (int(bounds[1]), int(bounds[2] or bounds[1])) if bounds else (0, -1)
        if not 0 <= first <= last <= 23:
            raise click.BadParameter(f"{text!r} is not a list of PCRs such as 0-7,14", param_hint="--pcrs")
        found.update(range(first, last + 1))
    return sorted(found)
