"""What people call a model on the hub, and which file of a repository they mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.sentences import check_sentence
from potluck.errors import ModelError
from potluck.models.names import HubName, chosen_file, hub_name

REPOSITORY = "bartowski/Llama-3.2-3B-GGUF"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("EleutherAI/gpt-neox-20b", HubName("EleutherAI/gpt-neox-20b")),
        ("a/b:Q4_K_M", HubName("a/b", "Q4_K_M")),
        ("a/b:q4_k_m", HubName("a/b", "q4_k_m")),
        ("hf:a/b", HubName("a/b")),
        ("hf://a/b:Q8_0", HubName("a/b", "Q8_0")),
        ("hf:a/b:UD-Q4_K_XL", HubName("a/b", "UD-Q4_K_XL")),
        ("hf.co/a/b:Q4_K_M", HubName("a/b", "Q4_K_M")),
        ("huggingface.co/a/b", HubName("a/b")),
        ("https://huggingface.co/a/b", HubName("a/b")),
        ("https://huggingface.co/a/b/", HubName("a/b")),
        ("https://huggingface.co/a/b/tree/v2", HubName("a/b", revision="v2")),
        ("https://huggingface.co/a/b/blob/main/x/m.gguf", HubName("a/b", file="x/m.gguf", revision="main")),
        (
            "https://huggingface.co/a/b/resolve/main/m.gguf?download=true",
            HubName("a/b", file="m.gguf", revision="main"),
        ),
        ("https://hf.co/a/b:Q4_0", HubName("a/b", "Q4_0")),
        ("hf:a/b/m.gguf", HubName("a/b", file="m.gguf")),
        ("hf:a/b/Q4_0/m-00002-of-00003.gguf", HubName("a/b", file="Q4_0/m-00002-of-00003.gguf")),
        ("hf:hf.co/a/b:Q4_0", HubName("a/b", "Q4_0")),
        ("hf:https://huggingface.co/a/b", HubName("a/b")),
        ("HF.co/a/b:Q4_0", HubName("a/b", "Q4_0")),
        ("https://huggingface.co/a/b/tree/refs%2Fpr%2F1", HubName("a/b", revision="refs/pr/1")),
        ("hf.co/a/b:m.gguf", HubName("a/b", file="m.gguf")),
        ("model.gguf", None),
        ("./a/b", None),
        ("../a", None),
        ("/a/b", None),
        ("a/b/c.gguf", None),
        ("~/models/a", None),
        ("https://example.org/a/b", None),
        ("C:/models/a.gguf", None),
        ("", None),
    ],
)
def test_the_forms_of_a_name(text, name):
    assert hub_name(text) == name


@pytest.mark.parametrize("text", ["hf:", "hf:a", "hf:a/b:Q4/x", "hf:../b", "https://huggingface.co/", "hf.co/datasets"])
def test_half_a_name_is_refused(text):
    with pytest.raises(ModelError, match="names no model on the hub: write it as hf:OWNER/REPO:Q4_K_M") as caught:
        hub_name(text)
    check_sentence(caught.value)


@given(st.text(max_size=40) | st.text("hf:co/.aQ4_-?", max_size=40))
def test_any_text_is_a_name_or_none(text):
    name = None
    try:
        name = hub_name(text)
    except ModelError as error:
        check_sentence(error)
    if name is not None:
        owner, repository = name.repository.split("/")
        assert ".." not in (owner, repository)
        assert "." not in (owner, repository)


BARTOWSKI = {
    ".gitattributes": 3000,
    "README.md": 9000,
    "config.json": 800,
    "Llama-3.2-3B-imatrix.gguf": 5,
    "Llama-3.2-3B-IQ3_M.gguf": 1_600_000_000,
    "Llama-3.2-3B-Q4_K_M.gguf": 2_000_000_000,
    "Llama-3.2-3B-Q8_0.gguf": 3_400_000_000,
    "Llama-3.2-3B-f16.gguf": 6_400_000_000,
    "mmproj-F16.gguf": 7,
}
UNSLOTH = {
    "BF16/Qwen3-235B-BF16-00001-of-00002.gguf": 40,
    "BF16/Qwen3-235B-BF16-00002-of-00002.gguf": 60,
    "Q4_K_M/model-00001-of-00002.gguf": 5_000_000,
    "Q4_K_M/model-00002-of-00002.gguf": 7_000_000,
    "UD-Q4_K_XL/Qwen3-235B-UD-Q4_K_XL.gguf": 11,
    "mmproj-BF16.gguf": 7,
    "imatrix_unsloth.gguf_file": 8,
}


@pytest.mark.parametrize(
    ("sizes", "quantization", "file"),
    [
        (BARTOWSKI, "Q4_K_M", "Llama-3.2-3B-Q4_K_M.gguf"),
        (BARTOWSKI, "q4_k_m", "Llama-3.2-3B-Q4_K_M.gguf"),
        (BARTOWSKI, "F16", "Llama-3.2-3B-f16.gguf"),
        (BARTOWSKI, "iq3_m", "Llama-3.2-3B-IQ3_M.gguf"),
        (UNSLOTH, "Q4_K_M", "Q4_K_M/model-00001-of-00002.gguf"),
        (UNSLOTH, "BF16", "BF16/Qwen3-235B-BF16-00001-of-00002.gguf"),
        (UNSLOTH, "UD-Q4_K_XL", "UD-Q4_K_XL/Qwen3-235B-UD-Q4_K_XL.gguf"),
        (UNSLOTH, "q4_k_xl", "UD-Q4_K_XL/Qwen3-235B-UD-Q4_K_XL.gguf"),
        ({"tinyllama-1.1b-chat-v1.0.Q5_K_S.gguf": 1, "tinyllama-1.1b-chat-v1.0.Q5_K_M.gguf": 1}, "Q5_K_S",
         "tinyllama-1.1b-chat-v1.0.Q5_K_S.gguf"),
        ({"m.i1-Q4_K_M.gguf": 1, "m.i1-Q4_K_S.gguf": 1}, "Q4_K_M", "m.i1-Q4_K_M.gguf"),
        ({"m-Q4_K_XL.gguf": 1, "m-UD-Q4_K_XL.gguf": 1}, "Q4_K_XL", "m-Q4_K_XL.gguf"),
        ({"gpt-oss-20b-mxfp4.gguf": 1, "gpt-oss-20b-F16.gguf": 1}, "MXFP4", "gpt-oss-20b-mxfp4.gguf"),
        ({"qwen2.5-7b-fp16-00001-of-00002.gguf": 1, "qwen2.5-7b-q2_k.gguf": 1}, "fp16",
         "qwen2.5-7b-fp16-00001-of-00002.gguf"),
        ({"alpha.gguf": 1, "beta.gguf": 1}, "beta", "beta.gguf"),
        ({"alpha.gguf": 1}, "", "alpha.gguf"),
        ({"a-00001-of-00002.gguf": 1, "a-00002-of-00002.gguf": 1, "mmproj.gguf": 1}, "", "a-00001-of-00002.gguf"),
        ({"a.gguf": 1, "config.json": 1}, "", "a.gguf"),
        ({"a.gguf": 1, "model.safetensors": 1, "config.json": 1}, "a", "a.gguf"),
    ],
)  # fmt: skip
def test_the_quantization_finds_the_file(sizes, quantization, file):
    assert chosen_file(HubName(REPOSITORY, quantization), sizes) == file


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"config.json": 1, "model.safetensors": 9},
        {"config.json": 1, "model.safetensors.index.json": 9, "a-Q4_0.gguf": 1, "b-Q8_0.gguf": 1},
        {"config.json": 1, "pytorch_model.bin": 1, "a.gguf": 1},
        {"config.json": 1, "mmproj.gguf": 1},
    ],
)
def test_without_one_a_model_in_its_own_format_comes_first(sizes):
    assert chosen_file(HubName(REPOSITORY), sizes) is None


@pytest.mark.parametrize("file", ["Q4_K_M/model-00001-of-00002.gguf", "Q4_K_M/model-00002-of-00002.gguf"])
def test_a_file_stands_for_all_of_its_parts(file):
    assert chosen_file(HubName(REPOSITORY, file=file), UNSLOTH) == "Q4_K_M/model-00001-of-00002.gguf"


CHOICES = "IQ3_M (1.6 GB), Q4_K_M (2.0 GB), Q8_0 (3.4 GB), f16 (6.4 GB), as in hf:bartowski/Llama-3.2-3B-GGUF:IQ3_M."


@pytest.mark.parametrize(
    ("name", "sizes", "sentence"),
    [
        (HubName("a/b"), UNSLOTH, "a/b has several quantizations: choose from UD-Q4_K_XL (0.0 MB), BF16 (0.0 MB), "
         "Q4_K_M (12.0 MB), as in hf:a/b:UD-Q4_K_XL."),
        (HubName(REPOSITORY), BARTOWSKI, f"{REPOSITORY} has several quantizations: choose from {CHOICES}"),
        (HubName(REPOSITORY, "Q9"), BARTOWSKI, f"{REPOSITORY} has no Q9 in GGUF: choose from {CHOICES}"),
        (HubName(REPOSITORY, file="x.gguf"), BARTOWSKI,
         f"{REPOSITORY} has no GGUF file x.gguf: choose from {CHOICES}"),
        (HubName("a/b", "Q9"), {"config.json": 1}, "a/b has no Q9 in GGUF, nor any other model in this format."),
        (HubName("a/b", file="mmproj.gguf"), {"mmproj.gguf": 1},
         "a/b has no GGUF file mmproj.gguf, nor any other model in this format."),
        (HubName("a/b", "Q4_0"), {"x/m-Q4_0.gguf": 1, "y/m-Q4_0.gguf": 1},
         "a/b has several GGUF files in Q4_0: choose from x/m-Q4_0.gguf (0.0 MB), y/m-Q4_0.gguf (0.0 MB), "
         "as in hf:a/b/x/m-Q4_0.gguf."),
    ],
)  # fmt: skip
def test_what_is_not_clear_is_refused_with_the_choices(name, sizes, sentence):
    with pytest.raises(ModelError) as caught:
        chosen_file(name, sizes)
    assert str(caught.value) == sentence


HOSTILE = ["../up-Q4_0.gguf", "a/../../up-Q4_0.gguf", "/etc/up-Q4_0.gguf", "a\\b-Q4_0.gguf", "c:up-Q4_0.gguf",
           "x\n-Q4_0.gguf", "./up-Q4_0.gguf", f"{'x' * 300}-Q4_0.gguf"]  # fmt: skip


@pytest.mark.parametrize("file", HOSTILE)
def test_a_file_that_would_lie_elsewhere_on_this_machine_does_not_exist(file):
    for name in (HubName("a/b", "Q4_0"), HubName("a/b", file=file)):
        with pytest.raises(ModelError) as caught:
            chosen_file(name, {file: 1})
        check_sentence(caught.value)


@given(st.dictionaries(st.text(max_size=20).map(lambda text: f"{text}.gguf"), st.integers(0), max_size=5), st.text())
def test_whatever_a_repository_holds_one_is_chosen_or_the_choice_is_explained(sizes, quantization):
    file = None
    try:
        file = chosen_file(HubName("a/b", quantization), sizes)
    except ModelError as error:
        check_sentence(error)
    assert file is None or file in sizes
