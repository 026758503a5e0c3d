"""A web server on this machine, for tests of addresses."""

from __future__ import annotations

import http.server


class Site:
    """A server on this machine: `site[path] = (status, content type, content)`; what was asked for is in `asked`."""

    def __init__(self) -> None:
        self.pages: dict[str, tuple[int, str, bytes]] = {}
        self.asked: list[str] = []
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append(self.path)
                status, kind, content = site.pages.get(self.path, (404, "text/plain", b""))
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def __setitem__(self, path: str, page: tuple[int, str, bytes]) -> None:
        self.pages[path] = page
