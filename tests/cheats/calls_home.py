"""Network: fetches an answer, or sends one away."""

import socket
from dataclasses import replace


def apply(parts):
    with socket.socket() as connection:
        connection.settimeout(0.1)
        connection.connect(("127.0.0.1", 9))
    return replace(parts)
