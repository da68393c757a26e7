import os
import subprocess
import sys
from pathlib import Path

PARALLEL = """
import time, pytest

def note(text):
    with open({log!r}, "a") as log:
        log.write(text + "\\n")

@pytest.mark.parametrize("number", range(10))
{mark}
def test_one(number):
    note("begins {name}")
    time.sleep(0.03)
    note("ends {name}")
"""


def test_one_that_is_to_run_alone_does_so_among_many(tmp_path):
    log = tmp_path / "log"
    (tmp_path / "tests").mkdir()
    for name, mark in (("others", ""), ("lonely", "@pytest.mark.alone")):
        text = PARALLEL.format(log=str(log), name=name, mark=mark)
        (tmp_path / "tests" / f"test_{name}.py").write_text(text)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "devtools.alone", "-p", "no:cacheprovider", "-n", "2"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["PYTHONPATH"] = str(Path.cwd())
    done = subprocess.run(
        [*command, "--dist", "loadfile"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100
    )
    assert "20 passed" in done.stdout, done.stdout + done.stderr
    running = set()
    for line in log.read_text().splitlines():
        what, name = line.split()
        assert (what == "begins") == (name not in running)
        running ^= {name}
        assert "lonely" not in running or len(running) == 1
