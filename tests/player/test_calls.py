"""The filter of calls, run by an interpreter of its own, for both architectures."""

from __future__ import annotations

import struct
import tomllib
from pathlib import Path

import pytest

from harness.player import calls
from harness.player.calls import Needs, call_filter

TABLE = tomllib.loads(Path(calls.__file__).with_name("calls.toml").read_text())
ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
KILL = {"x86_64": 62, "aarch64": 129}
ALLOWED, REFUSED, UNKNOWN = 0x7FFF0000, 0x50001, 0x50026
PID = 4321
THREAD = 0x3D0F00  # what glibc starts threads with
NEW_USER = 0x10000000
ALONE = Needs()

machines = pytest.mark.parametrize("machine", ARCHITECTURES)


def answer(machine: str, call: str | int, *arguments: int, needs: Needs = ALONE, architecture: int = 0) -> int:
    """What the kernel would answer, from the program alone."""
    mine, column = ARCHITECTURES[machine]
    groups = [group["calls"] for group in TABLE.values() if isinstance(group, dict)]
    number = call if isinstance(call, int) else next(group[call][column] for group in groups if call in group)
    data = struct.pack("<IIQ6Q", number, architecture or mine, 0, *arguments, *[0] * (6 - len(arguments)))
    program, place, loaded = call_filter(machine, PID, needs), 0, 0
    while True:
        code, then, otherwise, value = struct.unpack_from("=HBBI", program, 8 * place)
        place += 1
        if code == 0x06:
            return value
        if code == 0x20:
            loaded = struct.unpack_from("<I", data, value)[0]
            continue
        holds = {0x15: loaded == value, 0x35: loaded >= value, 0x45: bool(loaded & value)}[code]
        place += then if holds else otherwise


@machines
def test_reading_is_allowed_and_writing_only_where_it_is_needed(machine: str) -> None:
    assert answer(machine, "read", 3) == ALLOWED
    for flags in (0o1, 0o2, 0o100, 0o1000):
        assert answer(machine, "openat", 0, 0, flags) == REFUSED
        assert answer(machine, "openat", 0, 0, flags, needs=Needs(writes=True)) == ALLOWED
    assert answer(machine, "openat", 0, 0, 0o2000000) == ALLOWED


@machines
def test_a_clone_makes_threads_and_never_a_namespace(machine: str) -> None:
    assert answer(machine, "clone", THREAD) == ALLOWED
    assert answer(machine, "clone", 17) == REFUSED
    assert answer(machine, "clone", 17, needs=Needs(programs=True)) == ALLOWED
    for needs in (Needs(), Needs(programs=True)):
        assert answer(machine, "clone", THREAD | NEW_USER, needs=needs) == REFUSED
        assert answer(machine, "clone", 17 | NEW_USER, needs=needs) == REFUSED
        assert answer(machine, 435, needs=needs) == UNKNOWN


@machines
def test_a_process_can_abort_but_send_no_other_signal(machine: str) -> None:
    assert answer(machine, "tgkill", PID, PID, 6) == ALLOWED
    assert answer(machine, "tgkill", PID, PID, 9) == REFUSED
    assert answer(machine, "tgkill", PID + 1, PID + 1, 6) == REFUSED
    assert answer(machine, KILL[machine], PID, 9) == REFUSED


@machines
def test_limits_are_read_and_never_set(machine: str) -> None:
    assert answer(machine, "prlimit64", 0, 7, 0) == ALLOWED
    assert answer(machine, "prlimit64", PID, 7, 0) == ALLOWED
    assert answer(machine, "prlimit64", PID + 1, 7, 0) == REFUSED
    for address in (1, 1 << 32):  # either half of it
        assert answer(machine, "prlimit64", 0, 7, address) == REFUSED


@machines
def test_sockets_are_for_ranks_alone_and_reach_no_program_of_this_machine(machine: str) -> None:
    ranks = Needs(network=True)
    assert answer(machine, "socket", 2) == REFUSED
    assert answer(machine, "socket", 2, needs=ranks) == ALLOWED
    assert answer(machine, "socket", 1, needs=ranks) == REFUSED
    assert answer(machine, "connect", 3, needs=Needs(devices=True)) == REFUSED


@machines
def test_what_the_table_does_not_know_is_answered_as_unknown(machine: str) -> None:
    assert answer(machine, TABLE["newest"] + 1) == UNKNOWN
    assert answer(machine, 0x40000000) == UNKNOWN, "x86's second table of the same calls"


def test_calls_of_another_architecture_are_refused() -> None:
    assert answer("x86_64", "read", 3, architecture=0x40000003) == REFUSED


@machines
def test_a_need_adds_calls_and_takes_none_away(machine: str) -> None:
    everything = Needs(programs=True, network=True, devices=True, writes=True)
    for number in range(TABLE["newest"] + 1):
        if answer(machine, number) == ALLOWED:
            assert answer(machine, number, needs=everything) == ALLOWED
