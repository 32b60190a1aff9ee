# SPDX-License-Identifier: Apache-2.0
"""Ways to damage a file: bits, lengths, numbers where structure is, and, in texts, values that no reader expects.

Without a generator a file stays as it is.
"""

from __future__ import annotations

import json
import re
import struct

import numpy as np

#: What lengths, offsets, sizes and scales may be changed to.
_NUMBERS = [struct.pack("<i", n) for n in (0, 1, -1, 2**31 - 1, -(2**31), 65536)]
_NUMBERS += [struct.pack("<f", n) for n in (0.0, -1.0, float("nan"), float("inf"), 1e30)]
#: What a value of a text may be changed to, as JSON (and TOML) write it.
_VALUES = ["null", "true", "0", "-1", "1e999", "NaN", "Infinity", "1" * 5000, "9" * 19, "[" * 100_000]
_VALUES += ['""', '"x"', '"\\ud800"', '"/usr"', '"../../../.."', "[]", "{}", "[1, 2, 3]", '{"a": 1}']
_VALUES += ["[" * 3000 + "]" * 3000, '"' + "x" * 100_000 + '"']
_VALUE = re.compile(rb'"(?:[^"\\]|\\.)*"(?!\s*:)|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|true|false|null')


def damage_bytes(data: bytes, rng: np.random.Generator | None) -> bytes:
    """Flip bits, cut, fill, double or swap blocks, or put extreme numbers where numbers lie."""
    if rng is None:
        return data
    changed = bytearray(data)
    kind = rng.integers(0, 6)
    if kind == 0:
        for place in rng.integers(0, len(changed), int(rng.integers(1, 9))):
            changed[place] ^= 1 << int(rng.integers(0, 8))
    elif kind == 1:
        del changed[int(rng.integers(0, len(changed))) :]
    elif kind == 2:
        for _ in range(int(rng.integers(1, 4))):
            place = 4 * int(rng.integers(0, max(1, len(changed) // 4)))
            changed[place : place + 4] = _NUMBERS[int(rng.integers(0, len(_NUMBERS)))]
    elif kind == 3:
        start, size = int(rng.integers(0, len(changed))), int(rng.integers(1, 257))
        changed[start : start + size] = bytes(min(size, len(changed) - start))
    elif kind == 4:
        start, size = int(rng.integers(0, len(changed))), int(rng.integers(1, 257))
        changed[start:start] = changed[start : start + size]
    else:
        # The structure lies at the ends of most files: everything there, one byte at a time.
        place = int(rng.integers(0, min(len(changed), 600)))
        changed[place if rng.random() < 0.5 else -1 - place] = int(rng.integers(0, 256))
    return bytes(changed)


def damage_text(data: bytes, rng: np.random.Generator | None) -> bytes:
    """Change a value, a key or a line; or damage the bytes."""
    if rng is None:
        return data
    kind = rng.integers(0, 6)
    values = list(_VALUE.finditer(data))
    if kind <= 2 and values:
        found = values[int(rng.integers(0, len(values)))]
        new = _VALUES[int(rng.integers(0, len(_VALUES)))].encode()
        return data[: found.start()] + new + data[found.end() :]
    lines = data.splitlines(keepends=True) or [b""]
    at = int(rng.integers(0, len(lines)))
    if kind == 3:
        del lines[at]
    elif kind == 4:
        lines.insert(
            at,
            [b"\xff\xfe\n", b"\x00\n", b"[" * 3000 + b"\n", b"3\n", b"{}\n", b"\n", lines[at]][int(rng.integers(0, 7))],
        )
    else:
        return damage_bytes(data, rng) if data else b"\xff"
    return b"".join(lines)


def damage_safetensors(data: bytes, rng: np.random.Generator | None) -> bytes:
    """Damage the header as the text that it is, or the bytes."""
    if rng is None:
        return data
    size = struct.unpack("<Q", data[:8])[0]
    if rng.random() < 0.5:
        header = damage_text(data[8 : 8 + size], rng)
        return struct.pack("<Q", len(header)) + header + data[8 + size :]
    return damage_bytes(data, rng)


def many_tensors(count: int) -> bytes:
    """A .safetensors file of so many tensors without a byte."""
    header = json.dumps(
        {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(count)}
    ).encode()
    return struct.pack("<Q", len(header)) + header
