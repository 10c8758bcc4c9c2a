"""Models of transformers and adapters of PEFT, by their own code."""

import mixdown
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

import mixdown.peft
import mixdown.transformers


@pytest.fixture
def llamas(tmp_path, monkeypatch):
    """A base and two experts of a tiny llama, in bf16, as transformers writes them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIXDOWN_CACHE", str(tmp_path / "cache"))
    config = transformers.LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    for seed, name in enumerate(["base", "a", "b"]):
        torch.manual_seed(seed)
        transformers.LlamaForCausalLM(config).bfloat16().save_pretrained(name)
    return config


AVERAGE = {
    "mixdown": 1,
    "models": {"a": "./a", "b": "./b"},
    "method": "linear",
    "parameters": {"weight": 1},
}


def load(name):
    return transformers.AutoModelForCausalLM.from_pretrained(name, dtype="auto")


def test_a_recipe_is_loaded_as_a_model(llamas, tmp_path):
    before = set(tmp_path.iterdir())
    model = mixdown.transformers.load(AVERAGE, folder=tmp_path)
    a, b = load("a").state_dict(), load("b").state_dict()
    for name, value in model.state_dict().items():
        wanted = ((a[name].double() + b[name].double()) / 2).bfloat16()
        assert value.dtype == torch.bfloat16 and torch.equal(value, wanted), name
    assert model(torch.tensor([[1, 2, 3]])).logits.shape == (1, 3, 32)
    assert {path.name for path in set(tmp_path.iterdir()) - before} <= {"cache"}


def adapted(seed):
    torch.manual_seed(seed)
    options = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "up_proj"], init_lora_weights=False
    )
    return peft.get_peft_model(load("base"), options)


def test_fusing_gives_what_peft_gives(llamas):
    adapted(7).save_pretrained("lora")
    mixdown.fuse("./base", "./lora", "fused", dtype="float32")
    base = transformers.AutoModelForCausalLM.from_pretrained("base", dtype=torch.float32)
    wanted = peft.PeftModel.from_pretrained(base, "lora").merge_and_unload().state_dict()
    found = load("fused").state_dict()
    assert set(found) == set(wanted)
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-5, atol=1e-6)


def test_an_extracted_adapter_is_one_of_peft(llamas):
    # Of full rank it stands for the whole difference.
    mixdown.peft.extract("./a", "./base", "lora", rank=16)
    base = transformers.AutoModelForCausalLM.from_pretrained("base", dtype=torch.float32)
    found = mixdown.peft.load(base, "lora").merge_and_unload().state_dict()
    for name, wanted in load("a").state_dict().items():
        torch.testing.assert_close(found[name], wanted.float(), rtol=1e-2, atol=2e-3)


def test_adapters_are_merged_to_an_adapter(llamas):
    adapted(7).save_pretrained("one")
    adapted(8).save_pretrained("two")
    mixdown.peft.merge_adapters("./base", ["./one", "./two"], "both", weights=[0.5, 0.25])
    mixdown.fuse("./base", ["./one", "./two"], "fused", scale=[0.5, 0.25], dtype="float32")
    base = transformers.AutoModelForCausalLM.from_pretrained("base", dtype=torch.float32)
    found = peft.PeftModel.from_pretrained(base, "both").merge_and_unload().state_dict()
    for name, wanted in load("fused").state_dict().items():
        torch.testing.assert_close(found[name].float(), wanted.float(), rtol=1e-2, atol=2e-3)
    with pytest.raises(ValueError, match="1 adapters have 2 weights"):
        mixdown.peft.merge_adapters("./base", ["./one"], "other", weights=[1, 2])
