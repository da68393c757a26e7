"""What the repository holds: the tracked files, and every version that its history has of any."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path


def tracked(root: Path) -> list[Path]:
    """Return the tracked files below ``root``.

    :raises OSError: git is not there, or ``root`` is no work tree.
    """
    listed = _git(root, "ls-files", "-z").split(b"\0")
    return [path for name in listed if name and (path := root / name.decode()).is_file()]


def history(root: Path) -> Iterator[tuple[str, bytes]]:
    """Yield every version of every file that any commit has, with the path under which it was first met.

    :raises OSError: git is not there, or ``root`` is no work tree.
    """
    lines = _git(root, "rev-list", "--objects", "--all").decode().splitlines()
    named = {name: path for name, _, path in (line.partition(" ") for line in lines) if path}
    with subprocess.Popen(
        ["git", "cat-file", "--batch"], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for name, path in named.items():
            process.stdin.write(f"{name}\n".encode())
            process.stdin.flush()
            _, kind, size = process.stdout.readline().split()
            data = process.stdout.read(int(size) + 1)[:-1]
            if kind == b"blob":
                yield f"{path} ({name[:12]})", data
        process.stdin.close()


def _git(root: Path, *arguments: str) -> bytes:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, check=False)
    if done.returncode:
        raise OSError(f"git {arguments[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
