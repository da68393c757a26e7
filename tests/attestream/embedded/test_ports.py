import socket

import pytest

from attestream.embedded.ports import free_port


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_port_is_there_for_a_server_and_for_nobody_else(host):
    port = free_port(host)
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind((host, port))
    with socket.create_server((host, port)) as server:
        assert server.getsockname()[1] == port


def test_no_port_is_given_twice():
    ports = [free_port() for _ in range(200)]
    assert len(set(ports)) == 200
