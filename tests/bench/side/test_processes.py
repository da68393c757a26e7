"""What is counted belongs to the process and its descendants."""

import os
import signal
import subprocess
import sys

from bench.side import processes

SPIN = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SPIN!r}]); print('ready', flush=True); input()"


def test_family_counts_cpu_of_children_that_have_ended():
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout.readline() == b"ready\n"
        assert processes.family(parent.pid) == [parent.pid]
        assert parent.pid in processes.family(os.getpid())
        assert processes.cpu_seconds([parent.pid]) >= 0.25
        assert processes.proportional_bytes([parent.pid]) > 1 << 20
        parent.kill()
    assert processes.cpu_seconds([parent.pid]) == 0.0
    assert processes.proportional_bytes([parent.pid]) == 0
    processes.send([parent.pid], signal.SIGTERM)
