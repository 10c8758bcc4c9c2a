"""Folders pushed to a hub that runs here, by huggingface_hub's own code."""

import base64
import hashlib
import http.server
import importlib
import json
import threading

import mixdown
import pytest

pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")


class Hub(http.server.BaseHTTPRequestHandler):
    """What uploads need of the hub: creating, large files through storage, commits."""

    def log_message(self, *_):
        pass

    def answer(self, value, status=200):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_GET(self):
        self.answer({"id": "me/merged", "siblings": [], "sha": "0" * 40})

    def do_PUT(self):
        self.server.stored[self.path.rsplit("/", 1)[-1]] = self.body()
        self.answer({})

    def do_POST(self):
        server, place = self.server, f"http://{self.headers['Host']}"
        server.asked.append((self.path, self.headers.get("Authorization")))
        body = self.body()
        if self.path == "/api/repos/create":
            server.created = json.loads(body)
            self.answer({"url": f"{place}/me/merged", "name": "me/merged", "id": "1"})
        elif "/preupload/" in self.path:
            mode = lambda name: "lfs" if name.endswith(".safetensors") else "regular"
            names = [found["path"] for found in json.loads(body)["files"]]
            files = [{"path": name, "uploadMode": mode(name), "shouldIgnore": False} for name in names]
            self.answer({"files": files})
        elif self.path.endswith("/info/lfs/objects/batch"):
            wanted = json.loads(body)["objects"]
            upload = lambda of: {"upload": {"href": f"{place}/storage/{of['oid']}"}}
            self.answer({
                "transfer": "basic",
                "objects": [{**of, "authenticated": True, "actions": upload(of)} for of in wanted],
            })
        elif "/commit/" in self.path:
            server.commit = [json.loads(line) for line in body.decode().splitlines()]
            self.answer({"commitUrl": f"{place}/me/merged/commit/1", "commitOid": "1", "pullRequestUrl": None})
        else:
            self.answer({})


@pytest.fixture
def hub(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked, server.stored, server.created, server.commit = [], {}, None, None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    constants = importlib.import_module("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    yield server
    server.shutdown()
    server.server_close()


def test_an_output_arrives_whole(hub, models, linear):
    merged = mixdown.merge(linear, "merged")
    # What other tools keep beside the model is no part of it.
    (merged.out / ".cache").mkdir()
    (merged.out / ".cache" / "state").write_text("mine")
    endpoint = f"http://127.0.0.1:{hub.server_address[1]}"

    address = mixdown.push(merged.out, "me/merged", private=True, token="hf_mine", endpoint=endpoint)

    assert address == f"{endpoint}/me/merged/commit/1"
    # Newer versions of huggingface_hub say it by another word.
    wants_privacy = hub.created.get("private", hub.created.get("visibility") == "private")
    assert hub.created["name"] == "merged" and wants_privacy is True
    assert {token for _, token in hub.asked} == {"Bearer hf_mine"}
    weights = (merged.out / "model.safetensors").read_bytes()
    assert hub.stored == {hashlib.sha256(weights).hexdigest(): weights}
    small = {
        line["value"]["path"]: base64.b64decode(line["value"]["content"])
        for line in hub.commit
        if line["key"] == "file"
    }
    large = {line["value"]["path"]: line["value"]["oid"] for line in hub.commit if line["key"] == "lfsFile"}
    assert large == {"model.safetensors": hashlib.sha256(weights).hexdigest()}
    files = (path for path in merged.out.iterdir() if path.is_file() and path.suffix != ".safetensors")
    others = {path.name: path.read_bytes() for path in files}
    assert small == others and {"config.json", "mixdown-manifest.json"} <= set(small)


def test_what_is_damaged_stays_here(hub, models, linear):
    merged = mixdown.merge(linear, "merged")
    weights = bytearray((merged.out / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (merged.out / "model.safetensors").write_bytes(weights)
    with pytest.raises(mixdown.MergeError):
        mixdown.push(merged.out, "me/merged", endpoint=f"http://127.0.0.1:{hub.server_address[1]}")
    assert hub.asked == []
