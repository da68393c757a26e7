"""The machine's root file system: Debian's files, the agent, and an init that starts it. Made without mounting anything."""

from __future__ import annotations

import compileall
import hashlib
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Final

from attestream.errors import ConfigError
from devtools.vm.command import run
from devtools.vm.packages import PYTHON, unpack
from devtools.vm.python_packages import agent_distributions, copy_distribution

PROJECT: Final = Path(__file__).resolve().parents[2]
HOME: Final = "/opt/attestream"
"""Where the agent and its Python packages are in the machine."""
CONFIG: Final = "/etc/attestream/agent.toml"
STATE: Final = "/var/lib/attestream"
START_AGENT: Final = "/usr/local/sbin/start-agent"

_SIZE: Final = "600M"
_NOT_COMPILED: Final = re.compile(r"/(test|tests|lib2to3|idlelib|turtledemo)/")
_MKFS_S: Final = 120.0
_OURS: Final = ("attestream", "schemas", "services/__init__.py", "services/agent")
_UNUSED: Final = (
    *("./boot/*", "./lib/modules/*", "./usr/lib/grub/*", "./usr/lib/shim/*", "./usr/include/*", "./var/lib/dpkg/*"),
    *("./usr/share/locale/*", "./usr/share/man/*", "./usr/share/perl/*", "./usr/lib/x86_64-linux-gnu/perl*"),
    *("./usr/share/grub/*", "./usr/share/initramfs-tools/*", "./usr/lib/systemd/*", "./lib/systemd/*", "./dev/*"),
)

_INIT: Final = """\
#!/bin/busybox sh
# The machine's init: what the agent needs, and a shell for whoever operates the machine.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t securityfs security /sys/kernel/security
busybox mount -t devtmpfs dev /dev
busybox mount -t tmpfs run /run
busybox mount -t tmpfs tmp /tmp
busybox ip link set lo up
busybox ip addr add 10.0.2.15/24 dev eth0
busybox ip link set eth0 up
busybox ip route add default via 10.0.2.2
[ -e {config} ] && {start} &
busybox echo "init: ready"
set -- /dev/vport*
while :; do
    # The port can be opened once only.
    busybox sh <>"$1" >&0 2>&1
    busybox sleep 0.2
done
"""

# Its words go to the console: a log on disk that is also read would be a violation of IMA's.
_START_AGENT: Final = """\
#!/bin/busybox sh
export HOME=/root PYTHONPATH={home} PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 TSS2_LOG=all+none
cd {state} || exit 1
exec /usr/bin/python3.11 -m services.agent --config {config} </dev/null >/dev/console 2>&1
"""


def root_disk(archive: Path, cache: Path) -> Path:
    """Return an ext4 image of the root file system; make it when ``cache`` does not have it for these sources.

    :raises ConfigError: when this environment's Python is not the machine's, or a tool is missing.
    """
    if sys.version_info[:2] != PYTHON:
        raise ConfigError(
            f"the machine has Python {PYTHON[0]}.{PYTHON[1]}, and compiled packages of this environment are for "
            f"{sys.version_info[0]}.{sys.version_info[1]}",
            remedy="Make the environment with that Python: PYTHON=/path/to/python3.11 scripts/install.",
        )
    image = cache / f"root-{_key(archive)}.ext4"
    if not image.exists():
        for old in cache.glob("root-*.ext4"):
            old.unlink()
        tree = cache / "root"
        shutil.rmtree(tree, ignore_errors=True)
        _fill(tree, archive)
        unfinished = image.with_suffix(".part")
        unfinished.unlink(missing_ok=True)
        run(["mkfs.ext4", "-q", "-E", "root_owner=0:0", "-d", tree, unfinished, _SIZE], timeout_s=_MKFS_S)
        unfinished.replace(image)
        shutil.rmtree(tree)
    return image


def _fill(tree: Path, archive: Path) -> None:
    unpack(archive, tree, without=_UNUSED)
    for name in ("proc", "sys", "dev", "run", "tmp", "root", "usr/local/bin", STATE[1:], Path(CONFIG).parent.as_posix()[1:]):
        (tree / name).mkdir(parents=True, exist_ok=True)
    home = tree / HOME[1:]
    for source in agent_distributions():
        copy_distribution(source, home)
    for name in _OURS:
        _copy(PROJECT / name, home / name)
    # Byte code is made here: a machine that made its own would measure other files at its second start.
    for directory in (home, tree / "usr/lib/python3.11"):
        if not compileall.compile_dir(
            directory,
            quiet=2,
            stripdir=str(tree),
            invalidation_mode=PycInvalidationMode.UNCHECKED_HASH,
            workers=1,
            rx=_NOT_COMPILED,
        ):
            raise ConfigError(f"the modules in {directory} can not be compiled")
    scripts = {"sbin/init": _INIT, START_AGENT[1:]: _START_AGENT}
    for name, text in scripts.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.format(config=CONFIG, start=START_AGENT, home=HOME, state=STATE), encoding="utf-8")
        path.chmod(0o755)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def _key(archive: Path) -> str:
    """Return a digest of everything that the image is made of."""
    digest = hashlib.sha256(archive.name.encode())
    for source in agent_distributions():
        digest.update(f"{source.metadata['Name']} {source.version}\n".encode())
    for path in sorted({*_sources(), Path(__file__)}):
        digest.update(path.as_posix().encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]


def _sources() -> Iterable[Path]:
    for name in _OURS:
        path = PROJECT / name
        if path.is_file():
            yield path
        else:
            yield from (file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
