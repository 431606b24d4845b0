"""Files that ask whoever opens them to read another file or to call an address, and a server that would notice."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CONTAINERS = (b"moov", b"trak", b"mdia", b"minf", b"dinf")


class Server:
    """Counts the connections to a port of this machine."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port, self.calls = self.listener.getsockname()[1], 0
        threading.Thread(target=self._count, daemon=True).start()

    def _count(self) -> None:
        while True:
            try:
                connection = self.listener.accept()[0]
            except OSError:
                return
            self.calls += 1
            connection.close()


@contextmanager
def server() -> Iterator[Server]:
    one = Server()
    try:
        yield one
    finally:
        one.listener.close()


def hls(uri: str, *lines: str) -> bytes:
    return "\n".join(
        ["#EXTM3U", "#EXT-X-TARGETDURATION:3", *lines, "#EXTINF:3,", uri, "#EXT-X-ENDLIST", ""]
    ).encode()


def dash(uri: str) -> bytes:
    return f"""<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT3S"><Period>
    <AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1" width="64" height="48"><BaseURL>{uri}</BaseURL>
    </Representation></AdaptationSet></Period></MPD>""".encode()


def documents(url: str, secret: Path) -> dict[str, bytes]:
    """Small text files: playlists and scripts. `secret`: a transport stream; a copy of it lies beside the document."""
    return {
        "HLS, address": hls(f"{url}/a.ts"),
        "HLS, absolute path": hls(f"file://{secret}"),
        "HLS, neighbour": hls(secret.name),
        "HLS, concatenated header and secret": hls(f"concat:{url}/header|file:{secret}"),
        "HLS, key from an address": hls(secret.name, f'#EXT-X-KEY:METHOD=AES-128,URI="{url}/key"'),
        "HLS, master list": f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{url}/list.m3u8\n".encode(),
        "concat script, neighbour": f"ffconcat version 1.0\nfile {secret.name}\n".encode(),
        "concat script, address": f"ffconcat version 1.0\nfile {url}/a.ts\n".encode(),
        "DASH, address": dash(f"{url}/a.mp4"),
        "SDP": f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {url.rsplit(':', 1)[1]} RTP/AVP 96\n".encode(),
        "RTSP address": f"rtsp://{url.split('//')[1]}/\n".encode(),
        "SVG": f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{url}/a.png"/></svg>'.encode(),
        "VobSub index": b"# VobSub index file, v7 (do not modify this line!)\nid: en, index: 0\ntimestamp: 00:00:00:000, filepos: 0\n",
        "external stylesheet": f'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file://{secret}">]><MPD>&b;</MPD>'.encode(),
    }


def with_reference(data: bytes, target: Path) -> bytes:
    """An mp4's bytes (index last, one track) whose data reference is another file's absolute path, as QuickTime's alias."""
    at = data.index(b"dref") - 4
    size = struct.unpack_from(">I", data, at)[0]

    def box(kind, body):
        return struct.pack(">I", 8 + len(body)) + kind + body

    name, path = target.name.encode(), str(target).encode()
    alias = (
        bytes(50)
        + bytes([len(name)])
        + name.ljust(63, b"\0")
        + bytes(16)
        + struct.pack(">hh", -1, -1)
        + bytes(16)
    )
    alias += (
        struct.pack(">hH", 2, len(path)) + path + bytes(len(path) % 2) + struct.pack(">hH", -1, 0)
    )
    reference = box(b"dref", struct.pack(">II", 0, 1) + box(b"alis", bytes(4) + alias))
    changed = bytearray(data[:at] + reference + data[at + size :])
    for kind in CONTAINERS:
        place = data.index(kind) - 4
        struct.pack_into(
            ">I", changed, place, struct.unpack_from(">I", data, place)[0] + len(reference) - size
        )
    return bytes(changed)
