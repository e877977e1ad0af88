"""A Hugging Face hub on this machine: the few addresses that huggingface_hub asks, with what it was asked and sent."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.serving import Asked, Server, sha256

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_secret"  # of the user called user


@dataclass
class Repo:
    """A repository: its files at each commit, and which commit each branch is at."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    licence: str | None = None
    private: bool = False
    gated: bool = False

    def files(self, revision: str) -> dict[str, bytes]:
        return self.commits[self.branches.get(revision, revision)]


@dataclass
class Hub:
    """What the hub has, and how it answers.

    Attributes:
        url: its address, without a / at the end, as in HF_ENDPOINT.
        repos: by user/repo.
        answers: a status by path, instead of what the path has.
        elsewhere: an address that files are redirected to, ending in /; empty: the hub itself sends them.
        listing: what a listing says in place of what is true, by key.
        asked: all requests.
    """

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    answers: dict[str, int] = field(default_factory=dict)
    elsewhere: str = ""
    listing: Any = None
    asked: list[Asked] = field(default_factory=list)
    stored: dict[str, bytes] = field(default_factory=dict)

    def put(
        self, repo: str, files: dict[str, bytes], *, licence: str | None = "mit", commit: str = COMMIT, branch="main"
    ) -> None:
        """Let a repository hold exactly these files at a commit, which a branch is at then."""
        kept = self.repos.setdefault(repo, Repo())
        kept.licence, kept.commits[commit], kept.branches[branch] = licence, dict(files), commit

    def paths(self) -> list[str]:
        """What was asked for by GET, in order."""
        return [one.path for one in self.asked if one.method == "GET"]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub
    lock: threading.Lock

    def handle_one(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        path = urllib.parse.unquote(url.path).strip("/")
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", 0)))
        with self.lock:
            self.hub.asked.append(Asked(path, headers, method=self.command))
            if path in self.hub.answers:
                return self.say(self.hub.answers[path])
            known = headers.get("authorization") == f"Bearer {TOKEN}"
            match self.command, path.split("/"):
                case "GET", ["api", "whoami-v2"]:
                    return self.tell({"type": "user", "name": "user", "orgs": []}) if known else self.say(401)
                case "POST", ["api", "validate-yaml"]:
                    return self.tell({"errors": [], "warnings": []})
                case "POST", ["api", "repos", "create"] if known:
                    return self.create(json.loads(body))
                case "POST", ["api", "models", user, name, "preupload", _] if known:
                    files = [
                        {"path": one["path"], "uploadMode": mode(one["path"]), "shouldIgnore": False}
                        for one in json.loads(body)["files"]
                    ]
                    return self.tell({"files": files})
                case "POST", [_user, _git, "info", "lfs", "objects", "batch"] if known:
                    objects = [
                        {**one, "actions": {"upload": {"href": f"{self.hub.url}/store/{one['oid']}"}}}
                        for one in json.loads(body)["objects"]
                    ]
                    return self.tell({"transfer": "basic", "objects": objects})
                case "PUT", ["store", oid]:
                    self.hub.stored[oid] = body
                    return self.say(200)
                case "POST", ["api", "models", user, name, "commit", branch] if known:
                    return self.commit(f"{user}/{name}", branch, [json.loads(line) for line in body.splitlines()])
                case "GET" | "HEAD", ["api", "models", user, name, *rest]:
                    return self.list(f"{user}/{name}", rest[1] if rest else "main", known)
                case "GET" | "HEAD", [user, name, "resolve", revision, *parts]:
                    return self.resolve(f"{user}/{name}", revision, "/".join(parts), known)
        return self.say(404 if known else 401)

    do_GET = do_HEAD = do_POST = do_PUT = handle_one  # noqa: N815 - the library's names

    def create(self, asked: dict[str, Any]) -> None:
        repo = f"{asked.get('organization') or 'user'}/{asked['name']}"
        if asked.get("organization") not in (None, "user"):
            return self.say(403)
        status = 409 if repo in self.hub.repos else 200
        if status == 200:
            self.hub.put(repo, {".gitattributes": b""}, licence=None, commit="0" * 40)
            self.hub.repos[repo].private = asked.get("visibility") == "private"
        return self.tell({"url": f"{self.hub.url}/{repo}"}, status)

    def commit(self, repo: str, branch: str, lines: list[dict[str, Any]]) -> None:
        kept = self.hub.repos[repo]
        files = dict(kept.commits.get(kept.branches.get(branch, ""), {}))
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.stored[value["oid"]]
        commit = hashlib.sha1("".join(path + sha256(files[path]) for path in sorted(files)).encode()).hexdigest()
        kept.commits[commit], kept.branches[branch] = files, commit
        kept.licence = kept.licence or licence_of(files.get("README.md", b"").decode())
        self.tell({"commitUrl": f"{self.hub.url}/{repo}/commit/{commit}", "commitOid": commit, "success": True})

    def refused(self, repo: str, revision: str, *, known: bool) -> bool:
        """Whether a repository may not be seen, or is not there; if so, it was said."""
        kept = self.hub.repos.get(repo)
        if kept is None or ((kept.private or kept.gated) and not known):
            gated = kept is not None and kept.gated
            self.say(404 if known else 401, "GatedRepo" if gated else "RepoNotFound")
        elif kept.branches.get(revision, revision) not in kept.commits:
            self.say(404, "RevisionNotFound")
        else:
            return False
        return True

    def list(self, repo: str, revision: str, known: bool) -> None:
        if self.refused(repo, revision, known=known):
            return
        kept = self.hub.repos[repo]
        siblings = []
        for path, content in kept.files(revision).items():
            large = {"lfs": {"sha256": sha256(content), "size": len(content), "pointerSize": 100}}
            siblings.append({"rfilename": path, "size": len(content), **(large if mode(path) == "lfs" else {})})
        card = {"license": kept.licence} if kept.licence else None
        commit = kept.branches.get(revision, revision)
        document = {"id": repo, "sha": commit, "private": kept.private, "cardData": card, "siblings": siblings}
        self.tell(self.hub.listing(document) if self.hub.listing else document)

    def resolve(self, repo: str, revision: str, path: str, known: bool) -> None:
        if self.refused(repo, revision, known=known):
            return None
        kept = self.hub.repos[repo]
        content = kept.files(revision).get(path)
        if content is None:
            return self.say(404, "EntryNotFound")
        etag = sha256(content) if mode(path) == "lfs" else hashlib.sha1(content).hexdigest()
        headers = {"X-Repo-Commit": kept.branches.get(revision, revision), "ETag": f'"{etag}"'}
        headers |= {"X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{etag}"'}
        if self.hub.elsewhere:
            return self.say(302, headers=headers | {"Location": f"{self.hub.elsewhere}{etag}"})
        return self.say(200, headers=headers, body=content)

    def tell(self, document: object, status: int = 200) -> None:
        self.say(status, headers={"Content-Type": "application/json"}, body=json.dumps(document).encode())

    def say(self, status: int, code: str = "", *, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.hub.asked[-1].status = status
        self.send_response(status)
        for name, value in {**({"X-Error-Code": code} if code else {}), **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def mode(path: str) -> str:
    """How the hub keeps a file: small texts in git, all else by SHA-256."""
    return "regular" if path.endswith((".json", ".md")) else "lfs"


def licence_of(card: str) -> str | None:
    lines = [line.partition(": ")[2] for line in card.splitlines() if line.startswith("license: ")]
    return lines[0] if lines else None


@contextlib.contextmanager
def hub_on_this_machine(monkeypatch: pytest.MonkeyPatch, cache: Path, *, token: bool = False) -> Iterator[Hub]:
    """A hub that HF_ENDPOINT names for as long as the body runs; with a token the user called user is logged in."""
    from huggingface_hub import constants

    hub = Hub()
    handler = type("OwnHandler", (Handler,), {"hub": hub, "lock": threading.Lock()})
    with Server(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        hub.url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # it speaks to servers of its own
        monkeypatch.setenv("HF_TOKEN", TOKEN) if token else monkeypatch.delenv("HF_TOKEN", raising=False)
        yield hub
        server.shutdown()
