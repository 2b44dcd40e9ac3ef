"""Train the masked language model of the bed `cloze` and save it as an ordinary transformers directory.

    python -m limbeck.assets.build_cloze

Five to eight minutes on one core. The model reads texts that end in a cue and an answer; the answer, and some of the
other words, are gaps.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from limbeck.beds import cloze
from limbeck.rng import Rng

if TYPE_CHECKING:
    from transformers import BertForMaskedLM, PreTrainedTokenizerFast

__all__ = ["build", "excess"]

STEPS, ROWS, LR, HIDDEN = 2500, 256, 3e-3, 0.15
IDS = {word: i for i, word in enumerate(cloze.VOCABULARY)}


def _model() -> BertForMaskedLM:
    from transformers import BertConfig, BertForMaskedLM

    sizes: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    none: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = BertConfig(
        vocab_size=len(IDS), max_position_embeddings=32, type_vocab_size=1, pad_token_id=0, **sizes, **none
    )
    torch.manual_seed(0)
    return BertForMaskedLM(config)


def _tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordLevel(IDS, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = dict(zip(("pad_token", "mask_token", "unk_token"), cloze.SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=32, **names)


def _corpus(step: int) -> tuple[Tensor, Tensor]:
    """Rows of token ids (R, T) with gaps, and what stands in the gaps; -100 elsewhere."""
    rng = Rng(("cloze", "corpus", step), torch.arange(ROWS))
    topics_R, cues_R = rng.integers("topic", cloze.TOPICS), rng.integers("cue", len(cloze.CUES))
    written = cloze.texts(rng, topics_R)
    said_R = torch.zeros(ROWS, dtype=torch.long)
    for cue in range(len(cloze.CUES)):
        cdf = cloze.answers(topics_R, cue).cumsum(-1)
        drawn = torch.searchsorted(cdf, rng.uniform("answer", 1)).clamp(max=cloze.ANSWERS - 1)[:, 0]
        said_R = torch.where(cues_R == cue, drawn, said_R)
    whole = [
        f"{text} {cloze.CUES[cue]} {cloze.CUES[cue]}{said} ."
        for text, cue, said in zip(written, cues_R.tolist(), said_R.tolist(), strict=True)
    ]
    tokens_RT = torch.tensor([[IDS[word] for word in text.split()] for text in whole])
    gap_RT = rng.uniform("gap", tokens_RT.shape[1]) < HIDDEN
    gap_RT[:, -2] = True
    return tokens_RT.masked_fill(gap_RT, IDS["<mask>"]), tokens_RT.masked_fill(~gap_RT, -100)


@torch.no_grad()
def excess(model: BertForMaskedLM, cue: int, n: int = 512) -> float:
    """The mean KL divergence of the model's answers to a cue from the true ones, in nats.

    Args:
        model: the model.
        cue: its place in `CUES`.
        n: texts.
    """
    rng = Rng(("cloze", "held out"), torch.arange(n))
    written = cloze.texts(rng, rng.integers("topic", cloze.TOPICS))
    topics = cloze.Oracle()({"text": written}, frozenset({"topics"}))["topics"].exp()
    true = topics @ cloze.answers(torch.arange(cloze.TOPICS), cue)
    asked = torch.tensor([[IDS[word] for word in f"{t} {cloze.CUES[cue]} <mask> .".split()] for t in written])
    first = IDS[f"{cloze.CUES[cue]}0"]
    said = model(input_ids=asked).logits[:, -2].log_softmax(-1)[:, first : first + cloze.ANSWERS]
    return float((true * (true.log() - said)).sum(-1).mean())


def build() -> None:
    """Train, print how far the answers are from the truth, and save."""
    model, start = _model(), time.monotonic()
    optimiser = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LR, total_steps=STEPS, pct_start=0.1)
    for step in range(STEPS):
        tokens_RT, said_RT = _corpus(step)
        loss = cross_entropy(model(input_ids=tokens_RT).logits.flatten(0, 1), said_RT.flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 100 == 99:
            print(f"step {step + 1:5d}  loss {loss.item():.4f}  {time.monotonic() - start:.0f} s", flush=True)
    model.eval()
    print("KL to the truth, cue by cue:", [round(excess(model, cue), 3) for cue in range(len(cloze.CUES))])
    model.save_pretrained(cloze.TEACHER)
    _tokenizer().save_pretrained(cloze.TEACHER)
    print(f"{model.num_parameters():,} parameters")


if __name__ == "__main__":
    build()
