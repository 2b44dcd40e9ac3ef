"""Tiny models of public architectures with a tokenizer trained on the spot, as directories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXT = [
    "the cat sat on the mat and the dog sat on the log",
    "how much is 12 plus 30 ? it is 42 , said the user to the assistant",
    "a quick brown fox jumps over the lazy dog while the sun is shining",
]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
    "{% for c in m.tool_calls or [] %}<call>{{ c.function.name }}({{ c.function.arguments | tojson }}){% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_tokenizer(template: str | None = None, text: list[str] = TEXT, size: int = 400) -> Any:
    """A byte-level BPE, as GPT-2 and Qwen have."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<|end|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        text, trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=alphabet)
    )
    end = "<|im_end|>" if template else "<|end|>"
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token=end, pad_token="<|end|>", model_max_length=64
    )
    tokenizer.chat_template = template
    return tokenizer


def marked_tokenizer(kind: str) -> Any:
    """A byte-level BPE that marks the ends of a text, as those of encoder-decoders do: T5 the end, BART both."""
    special = ["<s>", "<pad>", "</s>"] if kind == "bart" else ["<pad>", "</s>", "<s>"]
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    )
    form = "<s> $A </s>" if kind == "bart" else "$A </s>"
    raw.post_processor = processors.TemplateProcessing(form, None, [(t, raw.token_to_id(t)) for t in ("<s>", "</s>")])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="</s>", pad_token="<pad>", bos_token="<s>", model_max_length=64
    )


def word_tokenizer() -> Any:
    """A WordPiece with [CLS] and [SEP], as BERT has."""
    raw = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    raw.normalizer = normalizers.BertNormalizer(lowercase=True)
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    raw.train_from_iterator(TEXT, trainers.WordPieceTrainer(vocab_size=200, special_tokens=special))
    ends = [("[CLS]", raw.token_to_id("[CLS]")), ("[SEP]", raw.token_to_id("[SEP]"))]
    raw.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ends)
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, mask_token="[MASK]", model_max_length=64,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"], **names,
    )  # fmt: skip


def config(kind: str) -> Any:
    wide = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4}
    wide |= {"num_attention_heads": 4, "max_position_embeddings": 64}
    if kind == "gpt2":
        return transformers.GPT2Config(
            vocab_size=400, n_embd=32, n_layer=4, n_head=4, n_positions=64, eos_token_id=0, bos_token_id=0
        )
    if kind == "qwen2":
        return transformers.Qwen2Config(**wide, num_key_value_heads=2, tie_word_embeddings=True)
    if kind == "qwen3":
        return transformers.Qwen3Config(**wide, num_key_value_heads=2, head_dim=16)
    if kind == "llama":
        return transformers.LlamaConfig(**wide, num_key_value_heads=2, tie_word_embeddings=False)
    if kind == "llama-64":  # as wide as a block of weights in four bits
        return transformers.LlamaConfig(**wide | {"hidden_size": 64, "intermediate_size": 128}, num_key_value_heads=2)
    if kind == "t5":
        return transformers.T5Config(
            vocab_size=400,
            d_model=32,
            d_kv=8,
            d_ff=48,
            num_layers=2,
            num_heads=4,
            decoder_start_token_id=0,
            eos_token_id=0,
        )
    if kind == "t5-ended":
        return transformers.T5Config(
            vocab_size=304, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, pad_token_id=0,
            decoder_start_token_id=0, eos_token_id=1, tie_word_embeddings=False, feed_forward_proj="gated-gelu",
        )  # fmt: skip
    if kind == "bart":
        return transformers.BartConfig(
            vocab_size=300, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
            decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=128,
            bos_token_id=0, pad_token_id=1, eos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=None,
        )  # fmt: skip
    return transformers.BertConfig(**wide | {"vocab_size": 200}, num_labels=3)


MODELS = {
    "gpt2": transformers.GPT2LMHeadModel,
    "qwen2": transformers.Qwen2ForCausalLM,
    "qwen3": transformers.Qwen3ForCausalLM,
    "llama": transformers.LlamaForCausalLM,
    "llama-64": transformers.LlamaForCausalLM,
    "t5": transformers.T5ForConditionalGeneration,
    "t5-ended": transformers.T5ForConditionalGeneration,
    "bart": transformers.BartForConditionalGeneration,
    "bert": transformers.BertForSequenceClassification,
    "bert-mlm": transformers.BertForMaskedLM,
    "bert-bare": transformers.BertModel,
}


def write(kind: str, directory: Path, seed: int = 0) -> Path:
    """Save a random model of a kind; its weights are drawn wider than usual, so that outputs tell inputs apart."""
    torch.manual_seed(seed)
    model = MODELS[kind](config(kind)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    model.save_pretrained(directory)
    tokenizer_of(kind).save_pretrained(directory)
    return directory


def tokenizer_of(kind: str) -> Any:
    """The tokenizer of a kind."""
    if kind.startswith("bert"):
        return word_tokenizer()
    if kind in ("t5-ended", "bart"):
        return marked_tokenizer(kind)
    return byte_tokenizer(CHATML if kind.startswith("qwen") else None)
