"""The same reader over HTTP: header, index and only the chunks that are asked for, by range requests."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from inrwsi.errors import UsageError
from inrwsi.formats.container import Container
from inrwsi.formats.header import GridInfo, Header, SlideInfo
from inrwsi.formats.writer import ContainerWriter

pytest.importorskip("aiohttp", reason="fsspec reads http:// with aiohttp (extra: http)")
PAYLOAD_BYTES = 20_000


class RangeHandler(BaseHTTPRequestHandler):
    """Serves one file whole or by range, and notes what was sent."""

    protocol_version = "HTTP/1.1"
    blob = b""
    sent: list[int]

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(self.blob)))
        self.end_headers()

    def do_GET(self) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        first, last = (int(asked[1]), min(int(asked[2]), len(self.blob) - 1)) if asked else (0, len(self.blob) - 1)
        body = self.blob[first : last + 1]
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(self.blob)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.sent.append(len(body))

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, type[RangeHandler]]]:
    """A file of 64 chunks of 20 kB each on a server of this machine: its address, and the handler that counts."""
    header = Header(SlideInfo(2048, 2048, 3, 8, (255, 255, 255)), GridInfo(256, (0,)), {"name": "any"})
    with ContainerWriter(tmp_path / "s.cinr", header) as writer:
        for n in range(64):
            writer.put_chunk(0, (n % 8, n // 8), bytes([n]) * PAYLOAD_BYTES)
        writer.finish()

    class Handler(RangeHandler):
        blob = (tmp_path / "s.cinr").read_bytes()
        sent: list[int] = []  # noqa: RUF012

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/s.cinr", Handler
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_chunk_over_http_costs_its_own_bytes(served: tuple[str, type[RangeHandler]]) -> None:
    url, handler = served
    with Container.open(url) as container:
        opened = sum(handler.sent)
        assert opened < 20_000
        assert container.chunk(0, (5, 6)).payload == bytes([53]) * PAYLOAD_BYTES
        # its page of the index, and its payload; the file has 1.3 MB
        assert PAYLOAD_BYTES < sum(handler.sent) - opened < PAYLOAD_BYTES + 2_000
        assert len(handler.sent) <= 5


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_server_of_whole_files_is_told(
    served: tuple[str, type[RangeHandler]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, handler = served

    def whole(self: RangeHandler) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.blob)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(self.blob)

    def handle(self: RangeHandler) -> None:
        with suppress(ConnectionError):  # the reader wants the first bytes, and hangs up
            BaseHTTPRequestHandler.handle(self)

    monkeypatch.setattr(handler, "do_HEAD", whole)
    monkeypatch.setattr(handler, "do_GET", whole)
    monkeypatch.setattr(handler, "handle", handle)
    with pytest.raises(UsageError, match=r"cannot be read: the server gives whole files only, .*; download the file$"):
        Container.open(url)
