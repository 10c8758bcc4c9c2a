"""Surveys, conversions and transplants, which call what the program calls."""

import json

import mixdown
import numpy
import pytest
from conftest import arrays, write_model


def test_a_survey_measures_what_numpy_does(models):
    found = mixdown.survey("./base", ["./a", "./b"])
    updates = [
        {name: models[expert][name].astype("float64") - models["base"][name] for name in models["base"]}
        for expert in "ab"
    ]
    flat = [numpy.concatenate([update[name].ravel() for name in sorted(update)]) for update in updates]
    for expert, of in zip(found.experts, flat):
        assert expert["norm"] == pytest.approx(numpy.linalg.norm(of), rel=1e-6)
    cosine = flat[0] @ flat[1] / numpy.linalg.norm(flat[0]) / numpy.linalg.norm(flat[1])
    assert found.pairs[0]["cosine"] == pytest.approx(cosine, rel=1e-5)
    assert found.page.startswith("<!") and found.document["experts"] == list(found.experts)
    # Experts without a common past drift as far as their weights are large.
    assert "W0655" in [warning.code for warning in found.warnings]


def test_one_expert_needs_no_list(models):
    assert [expert["name"] for expert in mixdown.survey("base", "a").experts] == ["a"]


def test_a_conversion_rounds_to_the_type(models):
    converted = mixdown.convert("./a", "f16", "half")
    assert mixdown.open("half")["norm.weight"].tolist() == models["a"]["norm.weight"].astype("float16").tolist()
    assert mixdown.verify(converted.out).tensors == 3


def test_an_unknown_form_is_told(models):
    with pytest.raises(mixdown.RecipeError) as caught:
        mixdown.convert("./a", "fp9", "half")
    assert caught.value.diagnostics[0].code == "E0145"


def vocabulary(folder, words, seed, width=6):
    tokens = {"model.embed_tokens.weight": arrays(seed, (len(words), width))["layers.0.weight"]}
    tokens["lm_head.weight"] = arrays(seed + 1, (len(words), width))["layers.1.weight"]
    config = {"model_type": "llama", "vocab_size": len(words), "hidden_size": width}
    config["tie_word_embeddings"] = False
    write_model(folder, tokens, config)
    vocab = {word: place for place, word in enumerate(words)}
    model = {"type": "WordLevel", "vocab": vocab, "unk_token": words[0]}
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model, "added_tokens": []}))
    return tokens


def test_a_transplant_keeps_rows_of_common_tokens(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIXDOWN_CACHE", str(tmp_path / "cache"))
    mine = vocabulary(tmp_path / "mine", ["?", "one", "two", "three"], 1)
    vocabulary(tmp_path / "theirs", ["three", "?", "four", "one"], 5)
    mixdown.transplant("mine", "theirs", "out", method="zero")
    rows = mixdown.open("out")["model.embed_tokens.weight"]
    before = mine["model.embed_tokens.weight"]
    assert rows.tolist() == [before[3].tolist(), before[0].tolist(), [0.0] * 6, before[1].tolist()]


def test_words_of_a_transplant_are_told(models):
    with pytest.raises(ValueError, match="`method` is one of .*`omp`.*found `opm`"):
        mixdown.transplant("base", "a", "out", method="opm")
