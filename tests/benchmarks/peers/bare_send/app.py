"""The yardstick: finished frames to all sockets by plain `send`, with no relay around it.

No server in Python can spend less on a delivery. Waits for a line on standard input, then sends:
so many events, so many a second, and where that is given so many of them in one `sendall`.
"""

import os
import socket
import sys
import time

SIZE = 470  # about what an event of this server has
UPGRADED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


def accept(listener: socket.socket) -> socket.socket:
    connection, _ = listener.accept()
    received = b""
    while not received.endswith(b"\r\n\r\n"):
        more = connection.recv(65536)
        if not more:  # somebody who only looked whether we listen
            return accept(listener)
        received += more
    connection.sendall(UPGRADED)
    return connection


def frame() -> bytes:
    content = f'{{"content":"^at={time.time_ns() // 1000}"}}'.ljust(SIZE).encode()
    return b"\x81\x7e" + len(content).to_bytes(2, "big") + content


def main() -> None:
    sockets, count, rate, *joined = (int(word) for word in sys.argv[1:])
    at_once = joined[0] if joined else 1
    listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])), backlog=1024)
    connections = [accept(listener) for _ in range(sockets)]
    sys.stdin.readline()
    begin = time.monotonic()
    for number in range(0, count, at_once):
        time.sleep(max(0.0, begin + number / rate - time.monotonic()))
        data = frame() * min(at_once, count - number)
        for connection in connections:
            connection.sendall(data)
    sys.stdin.read()


if __name__ == "__main__":
    main()
