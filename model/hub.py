"""Lists what a repository of the Hugging Face hub holds, or of a mirror that speaks as ModelScope does."""

from __future__ import annotations

import http.client
import json
import os
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from model.types import ModelError

HUB = "https://huggingface.co"
MIRROR_REVISION = "master"
"""What ModelScope calls its main branch."""
TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as broken."""
BROKEN = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)
"""What a connection that fails raises."""
ELSEWHERE = "check the network, set HF_ENDPOINT to a mirror of the hub, or add --mirror https://modelscope.cn"
_AGENT = {"User-Agent": "glmbot"}


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as it is listed; sha256 is None for small ones that are not in Git LFS."""

    name: str
    url: str
    size: int
    sha256: str | None
    headers: Mapping[str, str] = field(default_factory=dict)


def list_files(repo: str, *, mirror: str | None = None, revision: str | None = None) -> list[RemoteFile]:
    """All files of a repository. Raises ModelError: no such repository or revision, refused, unreachable.

    HF_ENDPOINT counts as it is now; HF_TOKEN, or who logged in, as huggingface_hub finds it.
    """
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", repo):
        raise ModelError(f"{repo!r} is no name of a repository", remedy="name it as in THUDM/chatglm-6b")
    return _of_mirror(mirror, repo, revision) if mirror else _of_hub(repo, revision)


def get(url: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
    """GET an address; a token is not passed on when the hub redirects to where it stores files.

    Raises HTTPError for a status that is none of success, else one of BROKEN.
    """
    request = urllib.request.Request(url)
    for name, value in headers.items():
        add = request.add_unredirected_header if name.lower() == "authorization" else request.add_header
        add(name, value)
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        raise
    return response


def refused(what: str, status: int) -> ModelError:
    """The error for an HTTP status."""
    remedy = "set HF_TOKEN to a token that may read it" if status in (401, 403) else "try again later"
    return ModelError(f"{what} was answered with HTTP status {status}", remedy=remedy)


def _of_hub(repo: str, revision: str | None) -> list[RemoteFile]:
    from huggingface_hub import HfApi
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    endpoint = (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")
    with _hub_errors(repo, revision, endpoint):
        headers = build_hf_headers(library_name="glmbot")
        info = HfApi(endpoint=endpoint).model_info(
            repo, revision=revision, files_metadata=True, timeout=TIMEOUT
        )
    files = []
    for entry in info.siblings or ():
        if entry.size is None:
            raise ModelError(f"{endpoint} lists no sizes of the files of {repo}", remedy=ELSEWHERE)
        # under the name and commit that the hub resolved: nothing is mixed if it changes meanwhile
        url = f"{endpoint}/{info.id}/resolve/{info.sha or quote(revision or 'main')}/{quote(entry.rfilename)}"
        sha256 = entry.lfs.sha256 if entry.lfs else None
        files.append(RemoteFile(entry.rfilename, url, entry.size, sha256, headers))
    return files


@contextmanager
def _hub_errors(repo: str, revision: str | None, endpoint: str) -> Iterator[None]:
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # where all versions have them
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError:
        raise ModelError(
            f"{repo} is gated: only who has agreed to its terms may download it",
            remedy=f"agree on {endpoint}/{repo}, then set HF_TOKEN to a token of yours",
        ) from None
    except RepositoryNotFoundError:
        raise ModelError(
            f"there is no model {repo} at {endpoint}, or it is private",
            remedy="check the name; for a private one set HF_TOKEN",
        ) from None
    except RevisionNotFoundError:
        raise ModelError(
            f"{repo} has no revision {revision!r} at {endpoint}", remedy="leave --revision out"
        ) from None
    except HfHubHTTPError as error:
        raise refused(f"{endpoint}/{repo}", error.response.status_code) from None
    except Exception as error:  # of whatever HTTP client this version of huggingface_hub has
        raise ModelError(f"{endpoint} cannot be reached: {_told(error)}", remedy=ELSEWHERE) from error


def _of_mirror(mirror: str, repo: str, revision: str | None) -> list[RemoteFile]:
    site = mirror.rstrip("/")
    base = f"{site}/api/v1/models/{quote(repo)}/repo"
    revision = revision or MIRROR_REVISION
    listing = f"{base}/files?{urlencode({'Revision': revision, 'Recursive': 'true'})}"
    other = "names may differ there (ZhipuAI/ChatGLM-6B); for a mirror of the hub itself set HF_ENDPOINT"
    try:
        with get(listing, _AGENT) as response:
            entries = json.load(response)["Data"]["Files"]
        return [_listed(entry, base, revision) for entry in entries if entry.get("Type") != "tree"]
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.NOT_FOUND:
            problem = f"there is no model {repo}, or no revision {revision!r} of it, at {site}"
            raise ModelError(problem, remedy=other) from None
        raise refused(listing, error.code) from None
    except BROKEN as error:
        raise ModelError(f"{site} cannot be reached: {_told(error)}", remedy=ELSEWHERE) from error
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{site} lists no files of {repo} as ModelScope does", remedy=other) from None


def _listed(entry: Mapping[str, Any], base: str, revision: str) -> RemoteFile:
    name, sha256 = str(entry["Path"]), str(entry.get("Sha256") or "").lower()
    url = f"{base}?{urlencode({'Revision': revision, 'FilePath': name})}"
    return RemoteFile(name, url, int(entry["Size"]), sha256 or None, _AGENT)


def _told(error: BaseException) -> str:
    return str(getattr(error, "reason", None) or error) or type(error).__name__
