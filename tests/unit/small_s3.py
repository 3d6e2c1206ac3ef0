"""A small object store that speaks as much of the S3 protocol as reading takes: ListObjectsV2 in pages, HEAD, GET with
ranges; anybody may read. Written against Amazon's API reference, for tests without the network."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import formatdate
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

PAGE = 7
"""Objects in one answer, so that a listing takes several."""


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: SmallS3

    def do_GET(self) -> None:
        self._answer(send=True)

    def do_HEAD(self) -> None:
        self._answer(send=False)

    def _answer(self, send: bool) -> None:
        parts = urlsplit(self.path)
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        self.server.asked.append(f"{self.command} {self.path}")
        if bucket != self.server.bucket:
            return self._say(404, b"<Error><Code>NoSuchBucket</Code></Error>", send)
        if not key:
            return self._say(200, self._listing(parse_qs(parts.query, keep_blank_values=True)), send)
        data = self.server.objects.get(key)
        if data is None or key in self.server.broken:
            code = "NoSuchKey" if data is None else "AccessDenied"
            return self._say(404 if data is None else 403, f"<Error><Code>{code}</Code></Error>".encode(), send)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            return self._say(200, data, send, key)
        first, last = int(asked[1]), min(int(asked[2] or len(data) - 1), len(data) - 1)
        return self._say(206, data[first : last + 1], send, key, f"bytes {first}-{last}/{len(data)}")

    def _listing(self, query: Mapping[str, list[str]]) -> bytes:
        prefix, divider = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
        after = query.get("continuation-token", [""])[0]
        keys = [key for key in sorted(self.server.objects) if key.startswith(prefix) and key > after]
        page, folders = keys[:PAGE], set()
        rows = []
        for key in page:
            if divider and divider in key[len(prefix) :]:
                folders.add(prefix + key[len(prefix) :].split(divider)[0] + divider)
                continue
            tag = md5(self.server.objects[key], usedforsecurity=False).hexdigest()
            rows.append(
                f"<Contents><Key>{escape(key)}</Key><LastModified>2020-02-02T02:02:02.000Z</LastModified>"
                f'<ETag>"{tag}"</ETag><Size>{len(self.server.objects[key])}</Size></Contents>'
            )
        rows += [f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in sorted(folders)]
        more = len(keys) > PAGE
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        return (
            f'<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{self.server.bucket}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(page)}</KeyCount>"
            f"<MaxKeys>{PAGE}</MaxKeys><IsTruncated>{str(more).lower()}</IsTruncated>{token}{''.join(rows)}"
            "</ListBucketResult>"
        ).encode()

    def _say(self, status: int, data: bytes, send: bool, key: str = "", part: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/octet-stream" if key else "application/xml")
        if key:
            self.send_header("ETag", f'"{md5(self.server.objects[key], usedforsecurity=False).hexdigest()}"')
            self.send_header("Last-Modified", formatdate(1580608922, usegmt=True))
        if part:
            self.send_header("Content-Range", part)
        self.end_headers()
        if send:
            self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


class SmallS3(ThreadingHTTPServer):
    """Objects of one bucket by key; those in `broken` may not be read."""

    daemon_threads = True

    def __init__(self, bucket: str, objects: Mapping[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.bucket, self.objects = bucket, dict(objects)
        self.broken: set[str] = set()
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def small_s3(bucket: str, objects: Mapping[str, bytes]) -> Iterator[SmallS3]:
    """The store, answering in a thread."""
    server = SmallS3(bucket, objects)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
