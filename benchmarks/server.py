"""A web server on this machine that sends parts of files, as fast as it can or as a line would.

python server.py FOLDER [MB-PER-SECOND] prints a port.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Line:
    """What all connections together may send in a second."""

    def __init__(self, rate: float) -> None:
        self.piece = 1 << 17 if rate else 1 << 30
        self._rate = rate
        self._free = 0.0
        self._lock = threading.Lock()

    def wait(self, nbytes: int) -> None:
        """Wait until so many bytes would have gone through."""
        if not self._rate:
            return
        with self._lock:
            self._free = max(self._free, time.monotonic()) + nbytes / self._rate
            until = self._free
        time.sleep(max(until - time.monotonic(), 0))


class Handler(BaseHTTPRequestHandler):
    """Sends a file of the working directory, or the bytes asked for."""

    protocol_version = "HTTP/1.1"
    line = Line(0)

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
                piece = min(end + 1 - start, self.line.piece)
                sent = os.sendfile(self.connection.fileno(), file.fileno(), start, piece)
                self.line.wait(sent)
                start += sent

    def log_message(self, *args: object) -> None:
        """Stay quiet."""


def main(folder: str, megabytes: str = "0") -> None:
    """Serve a folder until the input closes."""
    os.chdir(folder)
    Handler.line = Line(float(megabytes) * 1e6)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
