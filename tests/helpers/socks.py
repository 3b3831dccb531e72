"""A SOCKS5 proxy on loopback (RFC 1928): no login, CONNECT by name or IPv4 address; records its destinations."""

import socket
import socketserver
import threading
from contextlib import suppress


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        count = self.rfile.read(2)[1]
        self.rfile.read(count)
        self.wfile.write(b"\x05\x00")
        _, _, _, kind = self.rfile.read(4)
        host = self.rfile.read(self.rfile.read(1)[0]).decode() if kind == 3 else socket.inet_ntoa(self.rfile.read(4))
        port = int.from_bytes(self.rfile.read(2), "big")
        self.server.asked.append((host, port))
        with socket.create_connection((self.server.names.get(host, host), port)) as there:
            self.wfile.write(b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
            up = threading.Thread(target=_pump, args=(self.connection, there), daemon=True)
            up.start()
            _pump(there, self.connection)


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


class Socks(socketserver.ThreadingTCPServer):
    """Serves while the `with` block runs. `names`: what it resolves names to; `asked`: hosts and ports."""

    daemon_threads = True

    def __init__(self, names: dict[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.names, self.asked = names, []
        self.url = f"socks5://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def handle_error(self, *_: object) -> None:
        pass  # clients that hang up are part of the tests

    def __exit__(self, *arguments: object) -> None:
        self.shutdown()
        super().__exit__(*arguments)
