"""An ONNX network with BiRefNet's input and output, written by hand: its format is protocol buffers.

Field numbers are those of onnx.proto3. For one node that is less than another dependency.
"""

from __future__ import annotations

from pathlib import Path

SIDE = 1024


def write_network(path: Path, *, keep_channels: bool = False) -> Path:
    """`input_image` (1, 3, 1024, 1024) to `output_image`: the mean of the channels, (1, 1, 1024, 1024).

    keep_channels: hand the input through instead.
    """
    if keep_channels:
        node = text(1, "input_image") + text(2, "output_image") + text(4, "Identity")
    else:
        axes = text(1, "axes") + number(8, 1) + number(20, 7)  # a list of whole numbers
        node = text(1, "input_image") + text(2, "output_image") + text(4, "ReduceMean") + part(5, axes)
    graph = (
        part(1, node)
        + text(2, "graph")
        + part(11, tensor("input_image", 3))
        + part(12, tensor("output_image", 3 if keep_channels else 1))
    )
    model = number(1, 8) + part(7, graph) + part(8, number(2, 13))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model)
    return path


def tensor(name: str, channels: int) -> bytes:
    shape = b"".join(part(1, number(1, size)) for size in (1, channels, SIDE, SIDE))
    return text(1, name) + part(2, part(1, number(1, 1) + part(2, shape)))  # 1: float32


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def part(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def text(field: int, value: str) -> bytes:
    return part(field, value.encode())
