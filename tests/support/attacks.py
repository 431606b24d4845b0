"""Files that ask their reader to open another file or to call an address.

`server` gives an address that would notice the call.
"""

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
        self.port = self.listener.getsockname()[1]
        self.calls = 0
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
    """Give a server that listens while the context is open."""
    one = Server()
    try:
        yield one
    finally:
        one.listener.close()


def hls(uri: str, *lines: str) -> bytes:
    """Return a playlist of one entry, with further lines before it."""
    head = ["#EXTM3U", "#EXT-X-TARGETDURATION:3", *lines]
    return "\n".join([*head, "#EXTINF:3,", uri, "#EXT-X-ENDLIST", ""]).encode()


def dash(uri: str) -> bytes:
    """Return a manifest of one video."""
    return (
        '<?xml version="1.0"?>'
        '<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT3S">'
        '<Period><AdaptationSet mimeType="video/mp4">'
        '<Representation id="1" bandwidth="1" width="64" height="48">'
        f"<BaseURL>{uri}</BaseURL></Representation></AdaptationSet></Period></MPD>"
    ).encode()


def documents(url: str, secret: Path) -> dict[str, bytes]:
    """Return playlists and scripts by kind, all of them small text files.

    `secret` is a transport stream that they ask for; a copy of it lies beside the document.
    """
    port = url.rsplit(":", 1)[1]
    texts = {
        "HLS, master list": f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{url}/list.m3u8\n",
        "concat script, neighbour": f"ffconcat version 1.0\nfile {secret.name}\n",
        "concat script, address": f"ffconcat version 1.0\nfile {url}/a.ts\n",
        "SDP": (
            "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
            f"m=video {port} RTP/AVP 96\n"
        ),
        "RTSP address": f"rtsp://{url.split('//')[1]}/\n",
        "SVG": f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{url}/a.png"/></svg>',
        "VobSub index": (
            "# VobSub index file, v7 (do not modify this line!)\n"
            "id: en, index: 0\ntimestamp: 00:00:00:000, filepos: 0\n"
        ),
        "external stylesheet": (
            '<?xml version="1.0"?>'
            f'<!DOCTYPE a [<!ENTITY b SYSTEM "file://{secret}">]><MPD>&b;</MPD>'
        ),
    }
    playlists = {
        "HLS, address": hls(f"{url}/a.ts"),
        "HLS, absolute path": hls(f"file://{secret}"),
        "HLS, neighbour": hls(secret.name),
        "HLS, concatenated header and secret": hls(f"concat:{url}/header|file:{secret}"),
        "HLS, key from an address": hls(secret.name, f'#EXT-X-KEY:METHOD=AES-128,URI="{url}/key"'),
        "DASH, address": dash(f"{url}/a.mp4"),
    }
    return playlists | {kind: text.encode() for kind, text in texts.items()}


def with_reference(data: bytes, target: Path) -> bytes:
    """Return an mp4's bytes whose data reference is another file's absolute path.

    It is given as QuickTime's alias. `data`: one track, index last.
    """
    place = data.index(b"dref") - 4
    size = struct.unpack_from(">I", data, place)[0]
    reference = _box(
        b"dref", struct.pack(">II", 0, 1) + _box(b"alis", bytes(4) + _alias_record(target))
    )
    changed = bytearray(data[:place] + reference + data[place + size :])

    # All boxes around the reference grow with it.
    for kind in CONTAINERS:
        place = data.index(kind) - 4
        length = struct.unpack_from(">I", data, place)[0]
        struct.pack_into(">I", changed, place, length + len(reference) - size)
    return bytes(changed)


def _box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", 8 + len(body)) + kind + body


def _alias_record(target: Path) -> bytes:
    """Return the part of a QuickTime alias record that FFmpeg reads: the name and the path."""
    name = target.name.encode()
    path = str(target).encode()
    return b"".join(
        [
            bytes(50),
            bytes([len(name)]),
            name.ljust(63, b"\0"),
            bytes(16),
            struct.pack(">hh", -1, -1),
            bytes(16),
            struct.pack(">hH", 2, len(path)),  # 2: an absolute path follows
            path,
            bytes(len(path) % 2),
            struct.pack(">hH", -1, 0),
        ]
    )
