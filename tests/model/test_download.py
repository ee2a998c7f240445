"""Downloads from a hub and from a mirror, both played by a server here; nothing goes out to the network."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import threading
from collections import namedtuple
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import huggingface_hub.constants
import pytest

import model.download
from model.download import download
from model.types import ModelError

REPO = "acme/chatglm-6b"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = bytes(range(256)) * 1_000
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 256000\n"
SMALL = {"config.json": b'{"vocab_size": 80}', "README.md": b"# read me", "modeling_chatglm.py": b"evil()"}


class Hub:
    """What the server has and does; `requests` are the GETs of files as (name, Range, Authorization).

    `tokens`: the Authorization of GETs that were redirected to where large files are stored.
    """

    def __init__(self) -> None:
        self.files = {**SMALL, "pytorch_model.bin": WEIGHTS, "ice_text.model": b"pieces"}
        self.large = {"pytorch_model.bin", "ice_text.model"}
        self.sha256: dict[str, str] = {}
        self.requests: list[tuple[str, str | None, str | None]] = []
        self.tokens: list[str | None] = []
        self.cut_after: list[int] = []
        """The next answers break off after so many bytes."""
        self.ranges = True
        self.sent: dict[str, bytes] = {}
        """Sent in place of what is listed."""
        self.storage_statuses: list[int] = []
        """The next answers for large files; then they are sent."""
        self.status = 200
        self.error_code: str | None = None
        self.sizes = True

    def sha(self, name: str) -> str | None:
        listed = self.sha256.get(name, hashlib.sha256(self.files[name]).hexdigest())
        return listed if name in self.large else None

    def siblings(self) -> Iterator[dict[str, Any]]:
        for name, data in self.files.items():
            entry: dict[str, Any] = {"rfilename": name}
            if self.sizes:
                entry |= {"size": len(data), "blobId": "b" * 40}
            if name in self.large:
                entry["lfs"] = {"size": len(data), "sha256": self.sha(name), "pointerSize": 134}
            yield entry

    def mirrored(self) -> Iterator[dict[str, Any]]:
        yield {"Type": "tree", "Name": "more", "Path": "more", "Size": 0}
        for name, data in self.files.items():
            sha256 = (self.sha(name) or hashlib.sha256(data).hexdigest()).upper()
            yield {"Type": "blob", "Name": name, "Path": name, "Size": len(data), "Sha256": sha256}


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        path = unquote(url.path)
        mirrored = f"/api/v1/models/{REPO}/repo"
        if path == "/api/agent-harnesses":
            self.answer(200, b"{}")
        elif self.hub.status != 200:
            self.answer(self.hub.status, b"{}", {"X-Error-Code": self.hub.error_code or ""})
        elif path in (f"/api/models/{REPO}", f"/api/models/{REPO}/revision/v1") and query.get("blobs"):
            info = {"id": REPO, "sha": COMMIT, "siblings": list(self.hub.siblings())}
            self.answer(200, json.dumps(info).encode())
        elif path == f"{mirrored}/files" and query == {"Revision": "master", "Recursive": "true"}:
            listing = {"Code": 200, "Success": True, "Data": {"Files": list(self.hub.mirrored())}}
            self.answer(200, json.dumps(listing).encode())
        elif path == mirrored and query.get("Revision") == "master":
            self.send_file(query["FilePath"])
        elif path.startswith(f"/{REPO}/resolve/{COMMIT}/"):
            name = path.rpartition("/")[2]
            if name in self.hub.large:  # lies elsewhere, as on the hub
                self.hub.tokens.append(self.headers.get("Authorization"))
                self.answer(302, b"", {"Location": f"/storage/{name}"})
            else:
                self.send_file(name)
        elif path.startswith("/storage/") and self.hub.storage_statuses:
            self.answer(self.hub.storage_statuses.pop(0), b"")
        elif path.startswith("/storage/"):
            self.send_file(path.rpartition("/")[2])
        elif path.startswith("/api/models/") and "/revision/" in path and REPO in path:
            self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        else:
            self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def send_file(self, name: str) -> None:
        wanted = self.headers.get("Range")
        self.hub.requests.append((name, wanted, self.headers.get("Authorization")))
        data = self.hub.sent.get(name, self.hub.files[name])
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.hub.ranges else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if name == "pytorch_model.bin" and self.hub.cut_after:
            self.wfile.write(data[start : start + self.hub.cut_after.pop(0)])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        else:
            self.wfile.write(data[start:])


@pytest.fixture
def hub() -> Hub:
    return Hub()


@pytest.fixture
def address(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    # huggingface_hub asks its endpoint, as it was when it was imported, for a list of clients
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setattr(huggingface_hub.constants, "AGENT_HARNESSES_PATH", str(tmp_path / "h.json"), False)
    monkeypatch.setattr(model.download, "PAUSE", 0.0)
    yield address
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "models" / "chatglm"


def weights_requests(hub: Hub) -> list[str | None]:
    """The Range of each request for the weights."""
    return [wanted for name, wanted, _ in hub.requests if name == "pytorch_model.bin"]


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


@pytest.mark.usefixtures("address")
def test_weights_configuration_and_tokenizer_come_and_no_code(target: Path) -> None:
    seen: list[tuple[int, int]] = []
    assert download(REPO, target, progress=lambda done, total: seen.append((done, total))) == target
    assert names(target) == {"config.json", "ice_text.model", "pytorch_model.bin"}
    assert (target / "pytorch_model.bin").read_bytes() == WEIGHTS
    assert (target / "config.json").read_bytes() == SMALL["config.json"]
    total = sum(file.stat().st_size for file in target.iterdir())
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.usefixtures("address")
def test_the_folder_is_named_like_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert download(REPO) == Path("chatglm-6b")
    assert (tmp_path / "chatglm-6b/config.json").exists()


@pytest.mark.usefixtures("address")
def test_a_revision_is_asked_for(target: Path) -> None:
    assert (download(REPO, target, revision="v1") / "config.json").exists()


@pytest.mark.usefixtures("address")
def test_the_token_goes_to_the_hub_and_not_to_where_it_redirects(hub: Hub, target: Path) -> None:
    download(REPO, target)
    assert hub.tokens == ["Bearer hf_secret"] * 2
    assert {name: token for name, _, token in hub.requests} == {
        "config.json": "Bearer hf_secret",
        "ice_text.model": None,
        "pytorch_model.bin": None,
    }


@pytest.mark.usefixtures("address")
def test_an_interrupted_download_goes_on_where_it_was(hub: Hub, target: Path) -> None:
    hub.cut_after = [0, 100_000, 1_000]
    download(REPO, target)
    assert (target / "pytorch_model.bin").read_bytes() == WEIGHTS
    assert weights_requests(hub) == [None, None, "bytes=100000-", "bytes=101000-"]


@pytest.mark.usefixtures("address")
def test_a_later_run_goes_on_where_an_earlier_one_gave_up(hub: Hub, target: Path) -> None:
    hub.cut_after = [70_000] + [0] * model.download.ATTEMPTS
    with pytest.raises(ModelError, match="broke after 70,000 of 256,000 bytes") as caught:
        download(REPO, target)
    assert caught.value.remedy is not None
    assert "goes on where it stopped" in caught.value.remedy
    hub.requests.clear()
    download(REPO, target)
    assert weights_requests(hub) == ["bytes=70000-"]
    assert (target / "pytorch_model.bin").read_bytes() == WEIGHTS
    assert names(target) == {"config.json", "ice_text.model", "pytorch_model.bin"}


@pytest.mark.usefixtures("address")
def test_a_server_that_knows_no_ranges_sends_all_again(hub: Hub, target: Path) -> None:
    hub.ranges = False
    hub.cut_after = [70_000]
    download(REPO, target)
    assert (target / "pytorch_model.bin").read_bytes() == WEIGHTS


@pytest.mark.usefixtures("address")
def test_what_is_complete_is_checked_and_stays(hub: Hub, target: Path) -> None:
    download(REPO, target)
    (target / "ice_text.model").write_bytes(b"spoilt")
    hub.requests.clear()
    download(REPO, target)
    assert weights_requests(hub) == []
    assert (target / "ice_text.model").read_bytes() == b"pieces"


@pytest.mark.usefixtures("address")
def test_a_wrong_sha256_is_told_and_the_file_removed(hub: Hub, target: Path) -> None:
    hub.sha256["pytorch_model.bin"] = "ab" * 32
    with pytest.raises(ModelError) as caught:
        download(REPO, target)
    assert caught.value.file == target / "pytorch_model.bin"
    assert "ab" * 32 in caught.value.problem
    assert hashlib.sha256(WEIGHTS).hexdigest() in caught.value.problem
    assert not [name for name in names(target) if "pytorch_model" in name]


@pytest.mark.usefixtures("address")
@pytest.mark.parametrize("data", [WEIGHTS + b"more", WEIGHTS[:-1]])
def test_a_wrong_size_is_told(hub: Hub, target: Path, data: bytes) -> None:
    hub.sent["pytorch_model.bin"] = data
    with pytest.raises(ModelError, match=f"with {len(data):,} bytes, expected are 256,000") as caught:
        download(REPO, target)
    assert caught.value.file == target / "pytorch_model.bin"
    assert not [name for name in names(target) if "pytorch_model" in name]


@pytest.mark.usefixtures("address")
@pytest.mark.parametrize("listed", [WEIGHTS, POINTER], ids=["only sent", "listed too"])
def test_a_git_lfs_pointer_is_told(hub: Hub, target: Path, listed: bytes) -> None:
    hub.files["pytorch_model.bin"] = listed
    hub.sent["pytorch_model.bin"] = POINTER
    if listed is POINTER:
        hub.large.remove("pytorch_model.bin")
    with pytest.raises(ModelError, match="Git LFS pointer") as caught:
        download(REPO, target)
    assert caught.value.file == target / "pytorch_model.bin"
    assert "--mirror" in (caught.value.remedy or "")
    assert not [name for name in names(target) if "pytorch_model" in name]


@pytest.mark.usefixtures("address")
def test_safetensors_go_before_pickles_and_other_layouts_stay_away(hub: Hub, target: Path) -> None:
    hub.files = {
        "config.json": b"{}",
        "model.safetensors": b"tensors",
        "model.safetensors.index.json": b"{}",
        "pytorch_model.bin": WEIGHTS,
        "pytorch_model.bin.index.json": b"{}",
        "consolidated.safetensors": WEIGHTS,
        "original/model.safetensors": WEIGHTS,
        "../outside.json": b"{}",
        "training_args.bin": WEIGHTS,
    }
    hub.large = {"model.safetensors"}
    download(REPO, target)
    assert names(target) == {"config.json", "model.safetensors", "model.safetensors.index.json"}
    assert not (target.parent / "outside.json").exists()


@pytest.mark.usefixtures("address")
def test_a_repository_without_weights_is_refused(hub: Hub, target: Path) -> None:
    hub.files = SMALL
    with pytest.raises(ModelError, match="acme/chatglm-6b holds no weights") as caught:
        download(REPO, target)
    assert "THUDM/chatglm-6b" in (caught.value.remedy or "")
    assert not target.exists()


@pytest.mark.usefixtures("address")
def test_a_folder_that_cannot_be_written_is_named_with_the_way_out(target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("a file in its place")
    with pytest.raises(ModelError, match="cannot be written") as caught:
        download(REPO, target)
    assert caught.value.file == target
    assert "--to" in (caught.value.remedy or "")


@pytest.mark.usefixtures("address")
def test_a_disk_that_is_too_small_is_refused_before_anything_comes(
    hub: Hub, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 40_000_000))
    hub.files["pytorch_model.bin"] = bytes(50_000_000)
    with pytest.raises(ModelError, match=r"50\.00 MB are needed, only 40\.00 MB are free") as caught:
        download(REPO, target)
    assert "--to" in (caught.value.remedy or "")
    assert hub.requests == []


REFUSALS = [
    (401, "GatedRepo", "is gated", "HF_TOKEN"),
    (403, "GatedRepo", "is gated", "HF_TOKEN"),
    (401, "RepoNotFound", "there is no model acme/chatglm-6b", "HF_TOKEN"),
    (403, None, "HTTP status 403", "HF_TOKEN"),
    (500, None, "HTTP status 500", "later"),
]


@pytest.mark.usefixtures("address")
@pytest.mark.parametrize(("status", "code", "problem", "remedy"), REFUSALS)
def test_a_refusal_of_the_hub_is_told_with_what_to_do(
    hub: Hub, target: Path, status: int, code: str | None, problem: str, remedy: str
) -> None:
    hub.status, hub.error_code = status, code
    with pytest.raises(ModelError, match=problem) as caught:
        download(REPO, target)
    assert remedy in (caught.value.remedy or "")
    assert not target.exists()


@pytest.mark.usefixtures("address")
def test_an_overloaded_storage_is_asked_again_and_one_that_refuses_is_not(hub: Hub, target: Path) -> None:
    hub.storage_statuses = [503, 429]
    download(REPO, target)
    (target / "pytorch_model.bin").unlink()
    hub.storage_statuses = [403, 403]
    with pytest.raises(ModelError, match=r"pytorch_model\.bin was answered with HTTP status 403"):
        download(REPO, target)
    assert hub.storage_statuses == [403]
    assert names(target) == {"config.json", "ice_text.model"}


def test_an_unknown_model_or_revision_is_told(address: str, target: Path) -> None:
    with pytest.raises(ModelError, match=f"there is no model acme/other at {address}"):
        download("acme/other", target)
    with pytest.raises(ModelError, match="acme/chatglm-6b has no revision 'v2'"):
        download(REPO, target, revision="v2")
    with pytest.raises(ModelError, match="is no name of a repository"):
        download("../etc", target)


@pytest.mark.usefixtures("address")
def test_a_hub_that_lists_no_sizes_is_refused(hub: Hub, target: Path) -> None:
    hub.sizes = False
    with pytest.raises(ModelError, match="lists no sizes"):
        download(REPO, target)


@pytest.mark.parametrize("mirror", [True, False])
def test_without_a_network_the_other_ways_are_named(
    address: str, target: Path, monkeypatch: pytest.MonkeyPatch, mirror: bool
) -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("HF_ENDPOINT", nowhere)
        with pytest.raises(ModelError, match=f"{nowhere} cannot be reached") as caught:
            download(REPO, target, mirror=nowhere if mirror else None)
    assert "HF_ENDPOINT" in (caught.value.remedy or "")
    assert "--mirror" in (caught.value.remedy or "")


def test_a_mirror_gives_the_same_without_the_token(hub: Hub, address: str, target: Path) -> None:
    hub.cut_after = [1_000]
    download(REPO, target, mirror=f"{address}/")
    assert names(target) == {"config.json", "ice_text.model", "pytorch_model.bin"}
    assert (target / "pytorch_model.bin").read_bytes() == WEIGHTS
    assert weights_requests(hub) == [None, "bytes=1000-"]
    assert {token for _, _, token in hub.requests} == {None}


def test_a_mirror_says_what_it_does_not_have(hub: Hub, address: str, target: Path) -> None:
    with pytest.raises(ModelError, match="there is no model acme/other") as caught:
        download("acme/other", target, mirror=address)
    assert "HF_ENDPOINT" in (caught.value.remedy or "")
    hub.status = 403
    with pytest.raises(ModelError, match="HTTP status 403"):
        download(REPO, target, mirror=address)
