"""Answers that a fault plan gives instead of the service's: errors, pages of proxies, bombs."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from trellis_pipeline.service.messages import encode, error

HTML = b"<!DOCTYPE html><html><head><title>Bad Gateway</title></head><body><h1>Bad Gateway</h1></body></html>"
METADATA_URL = b"http://169.254.169.254/latest/meta-data/iam/security-credentials/"
BOMB_BLOCK, BOMB_BLOCKS = 8 * 2**20, 64


@dataclass(slots=True)
class Answer:
    """An HTTP answer held in memory."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""

    @classmethod
    def json(cls, status: int, code: str, message: str, **headers: str) -> Answer:
        """An error object without a task: it says nothing about any."""
        pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        body = encode({"data": [], "errors": [error(code, message)]})
        return cls(status, [(b"content-type", b"application/json"), *pairs], body)

    @classmethod
    def html(cls, status: int) -> Answer:
        """What a proxy says in its own words."""
        return cls(status, [(b"content-type", b"text/html; charset=utf-8")], HTML)


@cache
def gzip_bomb() -> bytes:
    """Half a gigabyte of spaces behind the beginning of an answer, in about half a megabyte of gzip.

    After a full flush the compressor remembers nothing (RFC 1951), so one block's output can be repeated.
    """
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    head = packer.compress(b'{"data":[') + packer.flush(zlib.Z_FULL_FLUSH)
    spaces = b" " * BOMB_BLOCK
    block = packer.compress(spaces) + packer.flush(zlib.Z_FULL_FLUSH)
    tail = packer.compress(b"]}") + packer.flush()
    size = len(b'{"data":[') + BOMB_BLOCK * BOMB_BLOCKS + len(b"]}")
    check = _crc([b'{"data":[', *[spaces] * BOMB_BLOCKS, b"]}"])
    return (
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff"
        + head
        + block * BOMB_BLOCKS
        + tail
        + struct.pack("<II", check, size & 0xFFFFFFFF)
    )


def _crc(pieces: Iterable[bytes]) -> int:
    check = 0
    for piece in pieces:
        check = zlib.crc32(piece, check)
    return check


def glb_bomb() -> bytes:
    """A small file whose JSON chunk claims two gigabytes (glTF 2.0 §4.4)."""
    return struct.pack("<4sII", b"glTF", 2, 2**31 + 20) + struct.pack("<I4s", 2**31, b"JSON") + b'{"asset":{'
