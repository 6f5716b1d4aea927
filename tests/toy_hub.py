"""A stand-in for the Hugging Face hub: a little server that keeps what is pushed to it, and gives it back.

It answers the addresses that `huggingface_hub` calls to make a repository, to upload a folder in one commit (large
files by the LFS protocol, as from a client without hf_xet), and to download a snapshot. A token is the name of an
account, which may write in its own repositories only.
"""

import base64
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, unquote, urlsplit

from huggingface_hub import ModelCard

LARGE = (".safetensors", ".png")


def git_id(content):
    "The id by which git knows a file."
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Repository:
    "The files of each commit, by its id, and which commit each branch is at."

    def __init__(self, private):
        self.private = private
        self.commits = {"0" * 40: {}}
        self.branches = {"main": "0" * 40}
        self.messages = []

    @property
    def files(self):
        return self.commits[self.branches["main"]]

    def commit(self, lines, branch, objects):
        "Apply the lines that a client sends to the head of a branch, or to a new pull request of it."
        files = dict(self.commits[self.branches["main" if branch.startswith("refs/pr") else branch]])
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "header":
                    self.messages.append(value["summary"])
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = objects[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        oid = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits[oid], self.branches[branch] = files, oid
        return oid


class ToyHub(ThreadingHTTPServer):
    "`with ToyHub() as hub`: the server at `hub.url`, with `hub.repositories` by id and `hub.calls`."

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories, self.objects, self.calls = {}, {}, []

    def __enter__(self):
        Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *args):
        self.shutdown()
        self.server_close()


class RefusedError(Exception):
    "An answer with another status than 200, and the hub's name for what is wrong."

    def __init__(self, status, code="", **content):
        self.status, self.code, self.content = status, code, content


def create(hub, account, body, query):
    owner = body["organization"] or account
    if owner != account:
        raise RefusedError(403 if account else 401)
    repo_id = f"{owner}/{body['name']}"
    if repo_id in hub.repositories:
        raise RefusedError(409, url=f"{hub.url}/{repo_id}")
    hub.repositories[repo_id] = Repository(body.get("visibility") == "private" or body.get("private", False))
    return {"url": f"{hub.url}/{repo_id}"}


def validate(hub, account, body, query):
    try:
        data = ModelCard(body["content"]).data.to_dict()
    except ValueError as e:
        raise RefusedError(400, errors=[{"message": str(e)}], warnings=[]) from e
    return {"errors": [], "warnings": [] if data else [{"message": "empty or missing yaml metadata in repo card"}]}


def repository(hub, account, repo_id, write=False):
    found, own = hub.repositories.get(repo_id), repo_id.split("/")[0] == account
    if found is None or (found.private and not own):
        raise RefusedError(404 if account else 401, "RepoNotFound")
    if write and not own:
        raise RefusedError(403 if account else 401)
    return found


def files_at(found, revision):
    oid = found.branches.get(unquote(revision), unquote(revision))
    if oid not in found.commits:
        raise RefusedError(404, "RevisionNotFound")
    return oid, found.commits[oid]


def about(hub, account, body, query, repo_id, revision="main"):
    oid, files = files_at(repository(hub, account, repo_id), revision)
    return {"id": repo_id, "sha": oid, "siblings": [{"rfilename": name} for name in files]}


def tree(hub, account, body, query, repo_id, revision):
    _, files = files_at(repository(hub, account, repo_id), revision)
    return [{"type": "file", "path": name, "size": len(c), "oid": git_id(c)} for name, c in files.items()]


def modes(hub, account, body, query, repo_id, revision):
    _, files = files_at(repository(hub, account, repo_id, write=True), revision)
    return {
        "files": [
            {
                "path": (name := f["path"]),
                "uploadMode": "lfs" if name.endswith(LARGE) else "regular",
                "shouldIgnore": False,
                "oid": known_id(name, files[name]) if name in files else None,
            }
            for f in body["files"]
        ]
    }


def known_id(name, content):
    return hashlib.sha256(content).hexdigest() if name.endswith(LARGE) else git_id(content)


def large(hub, account, body, query, repo_id):
    repository(hub, account, repo_id, write=True)
    objects = [{"oid": o["oid"], "size": o["size"]} for o in body["objects"]]
    for o in objects:
        if o["oid"] not in hub.objects:
            o["actions"] = {"upload": {"href": f"{hub.url}/lfs/{o['oid']}"}}
    return {"transfer": "basic", "objects": objects}


def store(hub, account, body, query, oid):
    assert hashlib.sha256(body).hexdigest() == oid
    hub.objects[oid] = body
    return {}


def commit(hub, account, body, query, repo_id, revision):
    found, branch = repository(hub, account, repo_id, write=True), unquote(revision)
    files_at(found, branch)
    number = sum(b.startswith("refs/pr") for b in found.branches) + 1
    asked = "create_pr" in query
    oid = found.commit(map(json.loads, body.splitlines()), f"refs/pr/{number}" if asked else branch, hub.objects)
    request = {"pullRequestUrl": f"{hub.url}/{repo_id}/discussions/{number}"} if asked else {}
    return {"commitUrl": f"{hub.url}/{repo_id}/commit/{oid}", "commitOid": oid} | request


def content(hub, account, body, query, repo_id, revision, name):
    oid, files = files_at(repository(hub, account, repo_id), revision)
    if name not in files:
        raise RefusedError(404, "EntryNotFound")
    return files[name], {"ETag": f'"{git_id(files[name])}"', "X-Repo-Commit": oid}


ID = r"([^/]+/[^/]+)"
ROUTES = [
    ("POST", r"/api/repos/create", create),
    ("POST", r"/api/validate-yaml", validate),
    ("GET", rf"/api/models/{ID}", about),
    ("GET", rf"/api/models/{ID}/revision/([^/]+)", about),
    ("GET", rf"/api/models/{ID}/tree/([^/]+)", tree),
    ("POST", rf"/api/models/{ID}/preupload/([^/]+)", modes),
    ("POST", rf"/{ID}\.git/info/lfs/objects/batch", large),
    ("PUT", r"/lfs/([0-9a-f]+)", store),
    ("POST", rf"/api/models/{ID}/commit/([^/]+)", commit),
    ("GET", rf"/{ID}/resolve/([^/]+)/(.+)", content),
]


class Answer(BaseHTTPRequestHandler):
    "One request."

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def handle_request(self):
        address, account = urlsplit(self.path), (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.calls.append((self.command, address.path))
        if "json" in (self.headers.get("Content-Type") or "") and "ndjson" not in self.headers["Content-Type"]:
            body = json.loads(body)
        method = "GET" if self.command == "HEAD" else self.command
        status, headers = 200, {}
        try:
            for verb, pattern, answer in ROUTES:
                if verb == method and (found := re.fullmatch(pattern, address.path)):
                    reply = answer(self.server, account, body, parse_qs(address.query), *found.groups())
                    break
            else:
                raise RefusedError(501)
        except RefusedError as e:
            status, reply, headers = e.status, {"error": e.code} | e.content, {"X-Error-Code": e.code} if e.code else {}
        if isinstance(reply, tuple):
            reply, headers = reply
        data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
        self.send_response(status)
        for name, value in (headers | {"Content-Length": len(data)}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_HEAD = do_POST = do_PUT = handle_request  # noqa: N815
