"""Ways to damage a file, for the fuzz tests: torn, spliced, retyped, or something else altogether."""

from __future__ import annotations

import ctypes
import json
import os
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from harness.core.errors import LlmbenchError


def fuzz(cases: int) -> settings:
    """The same cases on every machine and every day."""
    return settings(
        max_examples=cases, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )


@contextmanager
def closed_to_us() -> Iterator[None]:
    """A context in which files of mode 0 are closed to root too, here and in forks; skips the test where it cannot."""
    if os.geteuid():
        yield
        return
    if sys.platform != "linux":
        pytest.skip("root reads everything")
    libc, header = ctypes.CDLL(None), struct.pack("=Ii", 0x20080522, 0)  # linux/capability.h
    before = ctypes.create_string_buffer(24)  # effective, permitted, inheritable, and their upper halves
    assert libc.capget(header, before) == 0
    effective, *others = struct.unpack("=6I", before.raw)
    may_read_all = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(header, struct.pack("=6I", effective & ~may_read_all, *others)) == 0
    try:
        yield
    finally:
        assert libc.capset(header, before) == 0


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70),
    st.sampled_from([2**31, 2**63, 2**64, -(2**63), 10**400, 1e308, -1e308, 5e-324, 0.0, -0.0, 0.5]),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(
        ["", "base", "base+base", "../..", "0" * 64, "NaN", "1e5", "\x00", "\n::error::x", "\ud800", "\x1b[2J"]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)
# What no file of ours ever is.
STRANGE = [
    b"",
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\n" * 3,
    b"{}",
    b"[]",
    b"null",
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"9" * 5000,
    b'"x"',
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"[" * 400 + b"]" * 400,
    b"[" * 990 + b"]" * 990,
    b'"\\ud800"',
    b"a=" + b"[" * 5000,
    b"a=" + b"{b=" * 5000,
    b"a." * 50_000 + b"b=1",
    b"a=" + b"9" * 5000,
    b"a=0x" + b"f" * 5000,
    b"-" * 100_000 + b"1",
    b"a." * 100_000 + b"b",
    b"1+" * 100_000 + b"1",
    b"(" * 1000,
    b"lambda:" * 50_000 + b"1",
    b"#!/bin/sh\nexit 0\n",
    bytes(range(256)) * 40,
]


@st.composite
def damaged(draw: st.DrawFn, original: bytes) -> bytes:
    """`original` torn, spliced, flipped, recoded, or something else altogether."""
    size = len(original)
    start = draw(st.integers(0, size))
    end = min(size, start + draw(st.sampled_from([0, 1, 2, 8, 64, 1000])))
    piece = original[start:end]
    match draw(st.sampled_from(["cut", "drop", "insert", "double", "flip", "swap", "recode", "strange", "noise"])):
        case "cut":
            return original[:start]
        case "drop":
            return original[:start] + original[end:]
        case "insert":
            return original[:start] + draw(st.binary(min_size=1, max_size=8)) + original[start:]
        case "double":
            return original[:end] + piece + original[end:]
        case "flip":
            flipped = bytearray(original or b"\x00")
            flipped[min(start, len(flipped) - 1)] ^= 1 << draw(st.integers(0, 7))
            return bytes(flipped)
        case "swap":
            other = draw(st.integers(0, size))
            return original[:start] + original[other : other + 40] + original[end:]
        case "recode":
            text = original.decode("utf-8", "replace")
            codec = draw(st.sampled_from(["utf-16", "utf-8-sig", "utf-32-le", "cp037"]))
            return text.encode(codec, "replace")
        case "noise":
            return draw(st.binary(max_size=200))
        case _:
            return draw(st.sampled_from([content for content in STRANGE if len(content) < 1000]))


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(holder, key) of every node but the root."""
    for key, one in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield value, key
        yield from places(one)


@st.composite
def retyped(draw: st.DrawFn, original: bytes) -> bytes:
    """A JSON document with one node replaced, removed, renamed or written twice."""
    content = json.loads(original)
    found = list(places(content))
    holder, key = found[draw(st.integers(0, len(found) - 1))]
    change = draw(st.sampled_from(["replace", "replace", "replace", "remove", "rename", "twice", "root"]))
    if change == "remove":
        del holder[key]
    elif change == "rename" and isinstance(holder, dict):
        holder[draw(st.text(max_size=8))] = holder.pop(key)
    elif change == "root":
        content = draw(VALUES)
    else:
        holder[key] = draw(VALUES)
    text = json.dumps(content)
    if change == "twice" and isinstance(holder, dict):
        name = json.dumps(key)
        text = text.replace(f"{name}: ", f"{name}: {json.dumps(draw(SCALARS))}, {name}: ", 1)
    return text.encode()


REFUSED = object()


def outcome(read: Callable[[], Any]) -> Any:
    """What was read, or REFUSED after an error of one plain sentence; any other exception is the bug we look for."""
    try:
        return read()
    except LlmbenchError as error:
        message = str(error)
    assert is_sentence(message), repr(message)[:500]
    return REFUSED


def is_sentence(text: str) -> bool:
    return text.isprintable() and 10 < len(text) < 2000 and "Traceback" not in text
