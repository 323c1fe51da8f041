"""The Hugging Face hub's protocol over local folders, so that tests run the real client without a network.

`HF_ENDPOINT` points huggingface_hub and datasets here. Of the protocol there is what reading takes: a repository's
state at a revision, its tree, and ranges of its files (huggingface.co/docs/hub/api).
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer

COMMIT = "c0ffee" * 6 + "abcd"
"""The only commit of every repository; `main` stands for it."""
GATED = ".gated"
"""A file that closes its repository to whoever has not been let in."""

_API = re.compile(
    r"/api/(?P<kind>datasets|models)/(?P<name>[^/]+/[^/]+)/(?P<call>revision|tree|paths-info)/(?P<rest>.*)"
)
_FILE = re.compile(r"/(?P<kind>datasets/|)(?P<name>[^/]+/[^/]+)/resolve/(?P<rest>.*)")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root: Path
    """Holds `datasets/OWNER/NAME` and `models/OWNER/NAME`."""

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        for pattern, answer in ((_API, self._api), (_FILE, self._file)):
            if found := pattern.fullmatch(path):
                kind = found["kind"].rstrip("/") or "models"
                repository, (revision, _, inside) = self.root / kind / found["name"], found["rest"].partition("/")
                if not repository.is_dir():
                    return self._refuse("RepoNotFound")
                if (repository / GATED).exists():
                    return self._refuse("GatedRepo", 403)
                if revision not in (COMMIT, "main"):
                    return self._refuse("RevisionNotFound")
                return answer(repository, inside, found.groupdict().get("call"))
        return self._refuse("")

    do_HEAD = do_POST = do_GET

    def _api(self, repository: Path, inside: str, call: str | None) -> None:
        if call == "revision":
            files = [{"rfilename": entry["path"]} for entry in _tree(repository, "") if entry["type"] == "file"]
            name = repository.relative_to(repository.parent.parent).as_posix()
            return self._send_json({"id": name, "sha": COMMIT, "private": False, "siblings": files, "tags": []})
        if call == "paths-info":
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["paths"]
            return self._send_json([entry for entry in _tree(repository, "") if entry["path"] in asked])
        if not (repository / inside).exists():
            return self._refuse("EntryNotFound")
        return self._send_json(_tree(repository, inside))

    def _file(self, repository: Path, inside: str, _: str | None) -> None:
        path = repository / inside
        if not path.is_file():
            return self._refuse("EntryNotFound")
        content = path.read_bytes()
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first, last = (int(part[1]), int(part[2] or len(content) - 1)) if part else (0, len(content) - 1)
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(content).hexdigest()}"', "Accept-Ranges": "bytes"}
        if part:
            headers["Content-Range"] = f"bytes {first}-{min(last, len(content) - 1)}/{len(content)}"
        return self._send(206 if part else 200, headers, content[first : last + 1])

    def _send_json(self, document: Any) -> None:
        self._send(200, {"Content-Type": "application/json"}, json.dumps(document).encode())

    def _refuse(self, code: str, status: int = 404) -> None:
        self._send(status, {"X-Error-Code": code, "X-Repo-Commit": COMMIT}, b"")

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: the tests' output is for failures."""


def _tree(repository: Path, inside: str) -> list[dict[str, Any]]:
    return [
        {
            "type": "directory" if path.is_dir() else "file",
            "path": path.relative_to(repository).as_posix(),
            "size": 0 if path.is_dir() else path.stat().st_size,
            "oid": hashlib.sha1(path.as_posix().encode()).hexdigest(),
        }
        for path in sorted((repository / inside).rglob("*"))
    ]


def add_model(root: Path, name: str, tokenizer: Tokenizer) -> Path:
    """The folder of a model repository that holds a tokenizer."""
    folder = root / "models" / name
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def add_dataset(root: Path, name: str, config: str, columns: dict[str, Any], row_group_size: int | None = None) -> None:
    """A data set repository with one configuration, whose rows are dealt out over two files."""
    folder = root / "datasets" / name
    (folder / config).mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    half = table.num_rows // 2
    for number, part in enumerate((table.slice(0, half), table.slice(half))):
        path = folder / config / f"train-{number:05}-of-00002.parquet"
        pq.write_table(part, path, row_group_size=row_group_size)
    card = f"---\nconfigs:\n- config_name: {config}\n  data_files: {config}/*.parquet\n---\n"
    (folder / "README.md").write_text(card)


@contextmanager
def serve_hub(root: Path) -> Iterator[str]:
    """Serve the repositories below `root`; the address is what HF_ENDPOINT is to be."""
    handler = type("Handler", (_Handler,), {"root": root})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
