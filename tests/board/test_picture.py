"""A submission's picture: what is not a PNG of sane size is refused, whatever digest the submission states."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harness.board.check_claim import LARGEST_FILE
from harness.board.curves import WIDEST_PNG, png_problem
from harness.core.project import sha256
from tests.make import RECORD, copy_board, verify_board

OURS = (RECORD / "curves.png").read_bytes()
SIGNATURE, END = OURS[:8], OURS[-12:]


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def header(width: int, height: int) -> bytes:
    return SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


def svg() -> bytes:
    return b"<svg onload='alert(1)'/>"


def gif() -> bytes:
    from PIL import Image

    content = io.BytesIO()
    Image.new("P", (8, 8)).save(content, "gif")
    return content.getvalue()


BAD: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "is not a PNG"),
    "another format": (gif(), "is not a PNG"),
    "a page": (svg(), "is not a PNG"),
    "a signature alone": (SIGNATURE, "is not a PNG"),
    "cut off": (OURS[: len(OURS) // 2], "is not a valid PNG"),
    "no pixels": (header(8, 8) + END, "is not a valid PNG"),
    "wrong checksum": (OURS[:50] + b"x" + OURS[51:], "is not a valid PNG"),
    "too wide": (header(WIDEST_PNG + 1, 8) + END, f"{WIDEST_PNG + 1} x 8 pixels"),
    "a bomb": (
        header(2**31 - 1, 2**31 - 1) + chunk(b"IDAT", zlib.compress(bytes(10**6))) + END,
        "pixels, but may have",
    ),
    "a bomb of text": (
        OURS[:33] + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8))) + OURS[33:],
        "not a valid PNG",
    ),
    "a freight": (OURS + bytes(LARGEST_FILE), "bytes; a file of a submission"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_small_whole_png_is_refused_by_verify(tmp_path: Path, name: str) -> None:
    """With its digest restated: the digest says that it is the file that was filed, not what it is."""
    data, words = BAD[name]
    project = copy_board(tmp_path, 2)
    folder = project.submissions / RECORD.name
    (folder / "curves.png").write_bytes(data)
    text = (folder / "submission.json").read_text()
    (folder / "submission.json").write_text(text.replace(sha256(OURS), sha256(data)))
    problems = verify_board(project)[RECORD.name]
    assert any(words in problem and "curves.png" in problem for problem in problems), problems


def test_a_picture_of_ours_passes(tmp_path: Path) -> None:
    assert png_problem(OURS) is None
    assert verify_board(copy_board(tmp_path, 2))[RECORD.name] == []


@given(
    place=st.integers(8, 200), junk=st.binary(min_size=1, max_size=40), named=st.sampled_from([b"", b"acTL", b"iCCP"])
)
@example(place=33, junk=bytes(8), named=b"acTL")  # Pillow warns of it
def test_no_bytes_make_the_check_raise(place: int, junk: bytes, named: bytes) -> None:
    png_problem(OURS[:place] + (chunk(named, junk) if named else junk) + OURS[place:])
