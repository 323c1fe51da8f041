"""The hub, for real but for the distance: the command line and the hub's own client read from a server of this test."""

from __future__ import annotations

import json
import shutil
import signal
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.data.vocabulary import train_tokenizer
from tests.hub import COMMIT, GATED, add_dataset, add_model, serve_hub
from tests.make import TEXTS, smoke_with
from tests.sandbox import Done, Sandbox, make_sandbox, python, refusal

TEXT, IDS = "owner/corpus", "owner/tokenized"
PACKED = [TEXTS[start : start + 3] for start in range(0, len(TEXTS), 3)]


@dataclass(frozen=True)
class Hub:
    """A checkout beside a hub; every command has a cache of its own choice."""

    sandbox: Sandbox
    address: str
    root: Path

    def __call__(self, *arguments: str, cache: str = "cache", **environment: str) -> Done:
        return self.sandbox(*arguments, environment=self.environment(cache) | environment)

    def environment(self, cache: str) -> dict[str, str]:
        folder = self.root / cache
        return {"HF_ENDPOINT": self.address, "HF_HOME": str(folder / "hf"), "XDG_CACHE_HOME": str(folder)}

    def write_track(self, name: str, data: str) -> Path:
        """A track with the smoke track's model and this [data]."""
        path = self.sandbox.root / "tracks" / f"{name}.toml"
        path.write_text(smoke_with(data, name))
        return path


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    root = tmp_path_factory.mktemp("hub")
    tokenizer = train_tokenizer(TEXTS, 300)
    add_model(root, "owner/tokenizer", tokenizer)
    (root / "models" / "owner" / "empty").mkdir()
    add_dataset(root, TEXT, "fine", {"text": TEXTS, "number": range(len(TEXTS))}, row_group_size=9)
    rows = [tokenizer.encode("".join(row)).ids for row in PACKED]
    add_dataset(root, IDS, "fine", {"input_ids": rows}, row_group_size=9)
    (root / "datasets" / "owner" / "gated").mkdir()
    (root / "datasets" / "owner" / "gated" / GATED).touch()
    with serve_hub(root) as address:
        yield Hub(make_sandbox(root / "llmbench"), address, root)


def tokenizer_of(repository: str, more: str = "") -> str:
    return f'{{ source = "hub", repository = "{repository}", revision = "{COMMIT}"{more} }}'


def data(repository: str = TEXT, **changes: str | None) -> str:
    """[data] as TOML; values are TOML, too."""
    keys: dict[str, str | None] = {
        "source": '"hub"',
        "repository": f'"{repository}"',
        "revision": f'"{COMMIT}"',
        "text": '"text"' if repository == TEXT else None,
        "ids": '"input_ids"' if repository == IDS else None,
        "dev_fraction": "0.1",
        "val_fraction": "0.2",
        "tokenizer": tokenizer_of("owner/tokenizer"),
    }
    return "".join(f"{key} = {value}\n" for key, value in {**keys, **changes}.items() if value is not None)


SOURCES = {
    "text": data(),
    "trained": data(tokenizer='{ source = "trained" }', config='"fine"'),
    "ids": data(IDS),
}


@pytest.mark.parametrize("name", list(SOURCES))
def test_a_track_of_the_hub_is_pinned_and_made_alike_by_others(hub: Hub, name: str) -> None:
    path = hub.write_track(name, f"# the corpus\n{SOURCES[name]}  # of the hub\n\n# the model")
    before = path.read_text()
    done = hub("data", "pin", "--track", name)
    assert done.returncode == 0, done.stderr
    after = path.read_text()
    pins = tomllib.loads(after)["data"]
    assert [line for line in after.splitlines() if line.split(" = ")[0] not in pins or line in before] == (
        before.splitlines()
    )
    assert hub("data", "prepare", "--track", name, cache="other").returncode == 0  # or it would differ from the pins
    texts = TEXTS if name != "ids" else ["".join(row) for row in PACKED]
    assert sum(pins[split]["documents"] for split in ("train", "dev", "val")) == len(texts)
    if name != "ids":
        assert sum(pins[split]["bytes"] for split in ("train", "dev", "val")) == sum(len(t.encode()) for t in texts)


def test_rows_of_tokens_are_taken_as_they_are(hub: Hub) -> None:
    hub.write_track("rows", data(IDS))
    splits = hub.sandbox.json("data", "info", "--track", "rows", environment=hub.environment("rows"))["splits"]
    assert splits == {}
    assert hub("data", "prepare", "--track", "rows", cache="rows").returncode == 0
    splits = hub.sandbox.json("data", "info", "--track", "rows", environment=hub.environment("rows"))["splits"]
    tokenizer = train_tokenizer(TEXTS, 300)
    lengths = [len(tokenizer.encode("".join(row)).ids) for row in PACKED]
    assert sum(split["tokens"] for split in splits.values()) == sum(lengths)
    spelled = sum(split["bytes"] for split in splits.values())
    missing = sum(len("".join(row).encode()) for row in PACKED) - spelled
    assert 0 < missing <= 3 * max(len(tokenizer.decode([token]).encode()) for token in range(300))  # of first tokens


def test_an_unpinned_track_trains_but_nothing_can_be_filed_until_it_is_pinned(hub: Hub) -> None:
    hub.write_track("open", data())
    trained = hub("run", "baseline", "--pairs", "1", "--track", "open")
    assert trained.returncode == 0, trained.stderr
    assert "the track open states no digests" in trained.stderr
    refusal = hub.sandbox.refuses("submit", "--baseline", "--track", "open", environment=hub.environment("cache"))
    assert "run `llmbench data pin --track open`" in refusal
    assert hub("data", "pin", "--track", "open").returncode == 0
    again = hub("run", "baseline", "--pairs", "1", "--track", "open", HF_ENDPOINT="http://127.0.0.1:9")
    assert "trained before" in again.stderr  # and a cached track needs no network
    assert "states no digests" not in again.stderr


FAILURES: dict[str, tuple[str, list[str]]] = {
    "revision": (data(revision=f'"{"0" * 40}"'), [f"{TEXT} has no revision 0000", "commits/main"]),
    "repository": (data("owner/nothing", text='"text"'), ["no dataset owner/nothing", "check the name"]),
    "gated": (data("owner/gated", text='"text"'), ["owner/gated is gated", "hf auth login"]),
    "column": (data(text='"body"'), ["no column 'body'", "(its columns: text, number)"]),
    "type": (data(text='"number"'), ["column 'number'", "must contain text, found"]),
    "rows": (data(text=None, ids='"text"'), ["column 'text'", "must contain lists of tokens, found"]),
    "config": (data(config='"coarse"'), ["coarse", "fine"]),
    "split": (data(split='"test"'), ["test", "train"]),
    "files": (data(data_files='["coarse/*.parquet"]'), ["owner/corpus lacks a requested file", f"tree/{COMMIT} lists"]),
    "tokenizer": (
        data(tokenizer=tokenizer_of("owner/empty")),
        ["owner/empty lacks a requested file", "tokenizer.json"],
    ),
    "no-tokenizer": (data(tokenizer=tokenizer_of("owner/nothing")), ["no model owner/nothing", "check the name"]),
    "separator": (
        data(tokenizer=tokenizer_of("owner/tokenizer", ', separator = "<s>"')),
        ["no special token '<s>'", "data.tokenizer.separator"],
    ),
}

PREPARE = """
import json, sys
from harness.core.errors import LlmbenchError
from harness.data.prepare import prepare
from harness.core.project import Project
from harness.core.track import load_track
said = {}
for name in sys.argv[1:]:
    try:
        prepare(load_track(Project.find(), f"bad-{name}"))
    except LlmbenchError as error:
        said[name] = str(error)
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said(hub: Hub) -> dict[str, str]:
    """What preparing each of FAILURES ends with; in one process, because loading the libraries takes its time."""
    for name, (spec, _) in FAILURES.items():
        hub.write_track(f"bad-{name}", spec)
    done = python("-c", PREPARE, *FAILURES, cwd=hub.sandbox.root, **hub.environment("bad"))
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", list(FAILURES))
def test_a_failure_is_one_sentence_that_helps(said: dict[str, str], name: str) -> None:
    assert "\n" not in said[name]
    for word in FAILURES[name][1]:
        assert word in said[name]


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, ["did not answer for the dataset owner/corpus", "check the network"]),
        ({"HF_HUB_OFFLINE": "1"}, ["HF_HUB_OFFLINE is set; unset it"]),
    ],
)
def test_a_hub_out_of_reach_is_said_at_once(hub: Hub, environment: dict[str, str], words: list[str]) -> None:
    hub.write_track("far", data())
    done = hub("data", "prepare", "--track", "far", cache="far", **environment)
    assert "Retrying" not in done.stderr
    *_, sentence = refusal(done).strip().splitlines()
    for word in words:
        assert word in sentence


def test_a_branch_trains_and_becomes_its_commit_when_it_is_pinned(hub: Hub) -> None:
    branch = tokenizer_of("owner/tokenizer").replace(COMMIT, "main")
    path = hub.write_track("branch", data(revision='"main"', tokenizer=branch))
    assert hub("data", "prepare", "--track", "branch").returncode == 0
    assert hub("data", "pin", "--track", "branch").returncode == 0
    pinned = tomllib.loads(path.read_text())["data"]
    assert pinned["revision"] == pinned["tokenizer"]["revision"] == COMMIT
    assert hub("data", "prepare", "--track", "branch", cache="far", HF_ENDPOINT="http://127.0.0.1:9").returncode == 2
    path.write_text(path.read_text().replace(f'revision = "{COMMIT}"', 'revision = "main"', 1))
    assert "revision 'main' is not the id of a commit" in refusal(hub("data", "info", "--track", "branch"))


def test_a_stream_that_is_interrupted_goes_on_where_it_was(hub: Hub) -> None:
    hub.write_track("stream", data())
    assert hub("data", "pin", "--track", "stream", cache="whole").returncode == 0
    code = (
        "import os, signal, sys\n"
        "from harness.data import writer as arrays\n"
        "from harness.cli import main\n"
        "arrays.CHUNK_CHARACTERS = 3000\n"
        "make = arrays.PreparationStep\n"
        "def stop(doing, documents, tokens, of):\n"
        "    if tokens > 2000: os.kill(os.getpid(), signal.SIGINT)\n"
        "    return make(doing, documents, tokens, of)\n"
        "arrays.PreparationStep = stop\n"
        "sys.argv = ['llmbench', 'data', 'prepare', '--track', 'stream']\n"
        "main()"
    )
    done = python("-c", code, cwd=hub.sandbox.root, **hub.environment("stopped"))
    assert done.returncode == 128 + signal.SIGINT, done.stderr
    assert "run the same command again" in done.stderr
    assert list((hub.root / "stopped" / "llmbench" / "data").glob("*.partial/progress.json"))
    done = hub("data", "prepare", "--track", "stream", cache="stopped")
    assert done.returncode == 0, done.stderr  # the tokens are those that were pinned


def test_a_tokenizer_that_was_fetched_is_not_fetched_again(hub: Hub) -> None:
    hub.write_track("kept", data(tokenizer=tokenizer_of("owner/kept")))
    kept = hub.root / "models" / "owner" / "kept"
    shutil.copytree(hub.root / "models" / "owner" / "tokenizer", kept)
    assert hub("data", "prepare", "--track", "kept", cache="kept").returncode == 0
    shutil.rmtree(kept)
    done = hub("data", "prepare", "--force", "--track", "kept", cache="kept")
    assert done.returncode == 0, done.stderr
