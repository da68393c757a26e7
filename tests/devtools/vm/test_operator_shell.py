"""The operator's shell: a real shell behind a real Unix socket in place of the machine's."""

import socket
import subprocess
import threading

import pytest

from attestream.errors import MalformedError, TimedOutError
from devtools.vm.operator_shell import OperatorShell


@pytest.fixture
def shell(tmp_path):
    """A client of ``sh``, which reads commands from the socket and writes to it, as the machine's init has it do."""
    path = tmp_path / "operator"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)
    processes = []

    def serve():
        connection, _ = listener.accept()
        processes.append(subprocess.Popen(["/bin/sh"], stdin=connection, stdout=connection, stderr=connection))
        connection.close()

    server = threading.Thread(target=serve, daemon=True)
    server.start()
    client = OperatorShell(path)
    yield client
    client.close()
    server.join(5)
    for process in processes:
        process.wait(5)
    listener.close()


def test_what_a_command_writes_is_returned(shell):
    assert shell.run("echo one; echo two") == "one\ntwo\n"
    assert shell.run("printf three") == "three"


def test_a_failing_command_is_an_error_with_its_words(shell):
    with pytest.raises(MalformedError, match=r"status 3: no such thing"):
        shell.run("echo no such thing; exit 3")
    assert shell.run("echo still here") == "still here\n"


def test_a_command_that_takes_too_long_is_an_error(shell):
    with pytest.raises(TimedOutError):
        shell.run("sleep 2", timeout_s=0.3)


def test_a_command_does_not_eat_the_next_one(shell):
    assert shell.run("cat") == ""
    assert shell.answers()


def test_nobody_there(tmp_path):
    shell = OperatorShell(tmp_path / "operator")
    assert not shell.answers()
    with pytest.raises(TimedOutError):
        shell.run("echo", timeout_s=0.2)
