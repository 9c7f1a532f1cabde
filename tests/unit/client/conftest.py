import socket

import pytest


@pytest.fixture
def unused_url() -> str:
    """The URL of a port of this machine that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"
