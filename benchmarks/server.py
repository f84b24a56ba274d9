"""A web server on this machine that sends parts of files: python server.py FOLDER prints a port."""

from __future__ import annotations

import os
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """Sends a file of the working directory, or the bytes asked for."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer with the file by `sendfile`: what is measured is the other side."""
        path = self.path.lstrip("/")
        size = os.path.getsize(path)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted else 0
        end = min(int(wanted[2]), size - 1) if wanted and wanted[2] else size - 1
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{end}/{size}")
        self.send_header("Content-Length", str(end + 1 - start))
        self.send_header("ETag", f'"{size}"')
        self.end_headers()
        with open(path, "rb") as file:
            while start <= end:
                start += os.sendfile(
                    self.connection.fileno(), file.fileno(), start, end + 1 - start
                )

    def log_message(self, *args: object) -> None:
        """Stay quiet."""


def main(folder: str) -> None:
    """Serve a folder until the input closes."""
    import threading

    os.chdir(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1])
