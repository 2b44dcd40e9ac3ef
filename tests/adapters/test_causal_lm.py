"""Causal language models against transformers' own forward and generate."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer, models
from torch.nn import functional as F
from torch.utils import _pytree
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from limbeck.adapters.causal_lm import CausalLM
from limbeck.batch import Batch
from limbeck.errors import BadValue, Mismatch, UnknownName
from limbeck.kernels.head import TokenHead
from limbeck.parts.rollout import sample
from limbeck.parts.token import cross_entropy, forward_kl, jsd, reverse_kl, sequence_mean
from limbeck.players import Player, Players
from limbeck.rng import Rng
from limbeck.roles import frozen

CONFIGS = [LlamaConfig, Qwen2Config, GPT2Config]
CAPPED = {
    Gemma2Config: {"final_logit_softcapping": 2.0, "head_dim": 8},
    CohereConfig: {},
    GraniteConfig: {"logits_scaling": 4.0},
}


def tiny(config: type[PretrainedConfig], seed: int = 0, **changes: object) -> PreTrainedModel:
    """A random model of a few thousand weights, large enough to be far from uniform."""
    sizes: dict[str, object] = {
        "vocab_size": 37, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "max_position_embeddings": 64, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2,
    }  # fmt: skip
    if config is not GPT2Config:
        sizes["num_key_value_heads"] = 1
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        lm = AutoModelForCausalLM.from_config(config(**(sizes | changes))).eval()
        for p in lm.parameters():
            p.data.mul_(4.0 if p.ndim == 2 else 1.0)
    return lm


def tokenizer(words: int, added: int = 0, prefix: str = "w") -> PreTrainedTokenizerFast:
    vocabulary = {f"{prefix}{i}": i for i in range(words)}
    fast = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token=f"{prefix}0")))
    fast.add_tokens([f"<added {i}>" for i in range(added)])
    return fast


def ask(lm: PreTrainedModel, tokens: torch.Tensor, *want: str) -> dict[str, object]:
    return CausalLM(lm)({"tokens": tokens}, frozenset(want))


TOKENS = torch.randint(3, 37, (4, 9), generator=torch.Generator().manual_seed(0))
LENGTH = torch.tensor([9, 3, 5, 7])


@pytest.mark.parametrize("config", [*CONFIGS, *CAPPED])
def test_logits_are_those_of_transformers(config: type[PretrainedConfig]) -> None:
    lm = tiny(config, **CAPPED.get(config, {}))
    wanted = lm(TOKENS).logits
    answers = ask(lm, TOKENS, "logits", "head")
    torch.testing.assert_close(answers["logits"], wanted)
    assert isinstance(answers["head"], TokenHead) and answers["head"].hidden.shape == (4, 9, 16)
    torch.testing.assert_close(torch.cat(list(answers["head"].chunks(3))), wanted)


def test_only_what_is_wanted_is_answered() -> None:
    assert set(ask(tiny(LlamaConfig), TOKENS, "hidden")) == {"hidden"}


@pytest.mark.parametrize("config", CONFIGS)
def test_right_padding_changes_nothing_at_true_tokens(config: type[PretrainedConfig]) -> None:
    lm = tiny(config)
    logits = CausalLM(lm)({"tokens": TOKENS, "length": LENGTH}, frozenset({"logits"}))["logits"]
    for b, n in enumerate(LENGTH.tolist()):
        torch.testing.assert_close(logits[b, :n], lm(TOKENS[b : b + 1, :n]).logits[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("config", [*CONFIGS, Gemma2Config])
def test_greedy_rollouts_are_those_of_generate(config: type[PretrainedConfig]) -> None:
    lm = tiny(config, **CAPPED.get(config, {}))
    made, total = sample(
        Player("student", frozen(), CausalLM(lm)), TOKENS, LENGTH, Rng((), torch.arange(4)), temperature=0.0,
        max_new_tokens=12,
    )  # fmt: skip
    for b, n in enumerate(LENGTH.tolist()):
        prompt = TOKENS[b : b + 1, :n]
        wanted = lm.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=12)
        assert made[b, : total[b]].tolist() == wanted[0].tolist()


def test_taps_are_the_hidden_states_of_transformers() -> None:
    lm = tiny(LlamaConfig)
    states = lm(TOKENS, output_hidden_states=True).hidden_states
    before = len(lm.model.layers[0]._forward_hooks)
    answers = ask(lm, TOKENS, "tap:model.layers.0", "hidden")
    torch.testing.assert_close(answers["tap:model.layers.0"], states[1])
    torch.testing.assert_close(answers["hidden"], states[-1])
    with pytest.raises(UnknownName, match=r"did you mean 'model\.layers\.1'"):
        ask(lm, TOKENS, "tap:model.layer.1")
    assert len(lm.model.layers[0]._forward_hooks) == before


def test_what_the_net_knows_of_itself() -> None:
    lm = tiny(Qwen2Config)
    lm.generation_config.eos_token_id = [1, 5]
    net = CausalLM(lm)
    assert (net.vocab, net.eos, net.pad, net.context, net.family) == (37, (1, 5), 0, 64, "")
    named = CausalLM(lm, tokenizer(30, added=2))
    assert named.vocab == 32 and named.family == CausalLM(lm, tokenizer(30)).family != ""
    assert ask(lm, TOKENS, "logits")["logits"].shape[-1] == 37  # type: ignore[attr-defined]
    assert named({"tokens": TOKENS % 30}, frozenset({"logits"}))["logits"].shape[-1] == 32


def test_a_tokenizer_that_is_too_large_and_a_net_without_output_layer_are_refused() -> None:
    with pytest.raises(Mismatch, match="the tokenizer has 40 tokens, the model 37"):
        CausalLM(tiny(LlamaConfig), tokenizer(40))
    lm = tiny(LlamaConfig)
    lm.lm_head = torch.nn.Identity()
    with pytest.raises(BadValue, match="no plain linear output layer, got Identity"):
        CausalLM(lm)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")
def test_lora_answers_and_learns_through_the_head() -> None:
    from peft import LoraConfig, get_peft_model

    lora = get_peft_model(tiny(LlamaConfig), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    net = CausalLM(lora.eval())
    torch.testing.assert_close(net({"tokens": TOKENS}, frozenset({"logits"}))["logits"], lora(TOKENS).logits)
    net({"tokens": TOKENS}, frozenset({"head"}))["head"].hidden.sum().backward()
    assert {n.split(".")[-3] for n, p in lora.named_parameters() if p.grad is not None} <= {"lora_A", "lora_B"}
    assert any(p.grad is not None for p in lora.parameters())


def test_the_head_is_seen_by_pytree_utilities() -> None:
    # FSDP registers its hooks on the tensors that it finds in the outputs
    head = ask(tiny(LlamaConfig), TOKENS, "head")["head"]
    leaves, spec = _pytree.tree_flatten({"head": head})
    assert sum(isinstance(leaf, torch.Tensor) for leaf in leaves) == 2
    assert _pytree.tree_unflatten(leaves, spec)["head"].logits().shape == (4, 9, 37)


# -- token losses between two nets -----------------------------------------------------------------------------


def pair_of_players(**teacher: object) -> Players:
    given = {"student": CausalLM(tiny(LlamaConfig, 0)), "teacher": CausalLM(tiny(GPT2Config, 1, **teacher))}
    return Players({name: Player(name, frozen(), net) for name, net in given.items()})


def language_batch() -> Batch:
    at = torch.arange(9)
    mask = (at >= torch.tensor([2, 1, 4, 5])[:, None]) & (at < LENGTH[:, None])
    return Batch({"tokens": TOKENS, "length": LENGTH, "mask": mask})


def naive(players: Players, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities (B, T, V) of student and teacher for token t at position t, from transformers alone."""
    both = [players[name].module.lm(batch.tokens).logits.log_softmax(-1) for name in ("student", "teacher")]  # type: ignore[union-attr]
    return tuple(F.pad(z[:, :-1], (0, 0, 1, 0)) for z in both)  # type: ignore[return-value]


def test_losses_are_means_over_targets_of_the_naive_form() -> None:
    players, batch = pair_of_players(), language_batch()
    q, p = naive(players, batch)
    m = torch.logaddexp(p + torch.tensor(0.3).log(), q + torch.tensor(0.7).log())
    wanted = {
        forward_kl(): (p.exp() * (p - q)).sum(-1),
        reverse_kl(): (q.exp() * (q - p)).sum(-1),
        jsd(beta=0.3): 0.3 * (p.exp() * (p - m)).sum(-1) + 0.7 * (q.exp() * (q - m)).sum(-1),
        cross_entropy(): F.nll_loss(q.flatten(0, 1), batch.tokens.flatten(), reduction="none").view(4, 9),
    }
    for loss, per_token in wanted.items():
        torch.testing.assert_close(loss.total(players, batch)["loss"], per_token[batch.mask].mean(), msg=repr(loss))
        by_row = [row[m].mean() for row, m in zip(per_token, batch.mask, strict=True)]
        got = (sequence_mean() * loss).total(players, batch)["loss"]
        torch.testing.assert_close(got, torch.stack(by_row).mean(), msg=repr(loss))


def test_losses_do_not_depend_on_how_a_batch_is_split() -> None:
    players, batch = pair_of_players(), language_batch()
    for loss in (jsd(), sequence_mean() * jsd()):
        whole = loss.total(players, batch)["loss"]
        parts = [loss.total(players, batch.rows(at))["loss"] for at in (slice(0, 1), slice(1, 4))]
        torch.testing.assert_close(sum(parts), whole)


def test_gradients_reach_the_student_and_not_the_teacher() -> None:
    players, batch = pair_of_players(), language_batch()
    forward_kl().total(players, batch)["loss"].backward()
    student, teacher = players.student.module, players.teacher.module
    assert student is not None and teacher is not None
    got = [p.grad for p in student.parameters()]
    assert all(p.grad is None for p in teacher.parameters())
    student.zero_grad()
    q, p = naive(players, batch)
    (p.detach().exp() * (p.detach() - q)).sum(-1)[batch.mask].mean().backward()
    for mine, parameter in zip(got, student.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, atol=1e-5, rtol=1e-4)


def test_vocabularies_of_one_family_are_cut_and_others_refused() -> None:
    batch = replace(language_batch(), columns={**language_batch().columns, "tokens": TOKENS % 30})

    def players(student: CausalLM, teacher: CausalLM) -> Players:
        return Players(
            {"student": Player("student", frozen(), student), "teacher": Player("teacher", frozen(), teacher)}
        )

    small, large = tiny(LlamaConfig, 0), tiny(LlamaConfig, 1, vocab_size=48)
    one = players(CausalLM(small, tokenizer(30)), CausalLM(large, tokenizer(30, added=3)))
    p, q = (n.lm(batch.tokens).logits[:, :-1, :30].log_softmax(-1) for n in (one.teacher.module, one.student.module))  # type: ignore[union-attr]
    wanted = (p.exp() * (p - q)).sum(-1)[batch.mask[:, 1:]].mean()
    torch.testing.assert_close(forward_kl().total(one, batch)["loss"], wanted)
    with pytest.raises(Mismatch, match=r"student \(30 tokens\) and teacher \(33 tokens\) have different tokenizers"):
        other = players(CausalLM(small, tokenizer(30)), CausalLM(large, tokenizer(33, prefix="x")))
        forward_kl().total(other, batch.with_())
    with pytest.raises(Mismatch, match=r"student \(37 tokens\) and teacher \(48 tokens\) differ in vocabulary"):
        forward_kl().total(players(CausalLM(small), CausalLM(large)), batch.with_())
