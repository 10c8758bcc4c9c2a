"""Every block of Python in the pages and READMEs, run in the order of its page.

Blocks of one page share their names. A comment `<!-- not run: WHY -->` above a block leaves it alone."""

import os
import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(os.environ.get("MIXDOWN_REPOSITORY", Path(__file__).parents[2]))
BLOCK = re.compile(r"(?:<!-- (?P<marker>[^\n]*) -->\n\n?)?```(?P<language>\w+)\n(?P<text>.*?)^```$", re.S | re.M)

RECIPE = """\
mixdown: 1
models: {base: ./base, code: ./code, math: ./math}
base: base
method: ties
parameters: {weight: 1, density: 0.5}
"""


def blocks(page):
    for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
        if not (block["marker"] or "").startswith("not run: "):
            yield block["language"], block["text"]


PAGES = sorted(
    page
    for page in [ROOT / "README.md", ROOT / "python/README.md", *(ROOT / "docs").rglob("*.md")]
    if any(language == "python" for language, _ in blocks(page))
)


def test_there_are_pages():
    assert {"README.md", "docs/guides/python.md"} <= {str(page.relative_to(ROOT)) for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_snippets_run(page, tmp_path, monkeypatch):
    pytest.importorskip("torch", reason="the pages' models are of bf16, which numpy lacks")
    from safetensors.torch import load_file

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIXDOWN_CACHE", str(tmp_path / "cache"))
    names = {}
    for name in ["base", "code", "math"]:
        shutil.copytree(ROOT / "examples/quickstart" / name, tmp_path / name)
        names[name] = {}
        for shard in sorted((tmp_path / name).glob("*.safetensors")):
            names[name].update(load_file(shard))
    # A page's own recipe, where it has one for this.
    local = [text for language, text in blocks(page) if language == "yaml" and "./base" in text]
    (tmp_path / "recipe.yaml").write_text(local[0] if page.name == "python.md" else RECIPE)
    for language, text in blocks(page):
        if language == "python":
            exec(compile(text, str(page), "exec"), names)
