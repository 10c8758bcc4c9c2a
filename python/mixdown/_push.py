"""Merged models to the hub."""

from __future__ import annotations

import glob
import json
import os
from pathlib import Path

from ._merge import verify

_MANIFEST = "mixdown-manifest.json"


def _names(folder: Path) -> list[str]:
    """The files that the manifest names, and the manifest; hidden ones beside them belong to other tools."""
    manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
    shards = {tensor["shard"] for tensor in manifest["tensors"]}
    return sorted({_MANIFEST, *shards, *(file["name"] for file in manifest["files"])})


def push(
    folder: str | os.PathLike[str],
    repo: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    message: str | None = None,
    token: str | bool | None = None,
    create_pull_request: bool = False,
    endpoint: str | None = None,
) -> str:
    """Uploads a folder that mixdown wrote to the hub's model `repo`, `"org/name"`, by huggingface_hub's own code.

    The folder is proven against its manifest first, so that nothing unfinished or damaged goes out. The
    repository is made where there is none, `private` if asked; `revision` is a branch, made where there is
    none. Returns the address of the commit.

    **Errors.** `MergeError` where the folder is no whole output; `ImportError` without huggingface_hub; what
    huggingface_hub raises of the hub.
    """
    folder = Path(folder)
    verify(folder, progress=False)
    try:
        import huggingface_hub
    except ImportError:
        raise ImportError("`mixdown.push` needs huggingface_hub: pip install huggingface_hub") from None
    hub = huggingface_hub.HfApi(endpoint=endpoint, token=token)
    hub.create_repo(repo, private=private, exist_ok=True)
    if revision is not None:
        hub.create_branch(repo, branch=revision, exist_ok=True)
    commit = hub.upload_folder(
        repo_id=repo,
        folder_path=folder,
        revision=revision,
        commit_message=message or f"Merged model {folder.resolve().name}",
        create_pr=create_pull_request,
        allow_patterns=[glob.escape(name) for name in _names(folder)],
    )
    return str(commit.commit_url)
