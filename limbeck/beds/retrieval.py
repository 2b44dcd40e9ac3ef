"""Queries and documents about known topics, and an embedder whose prefixes are embeddings too.

A text is a bag of words: each is one of its topic's own words, or one of those that all topics share. A document is
relevant to a query if it has the query's topic. The teacher is shipped, the same for every seed; it learned from pairs
of one topic at four lengths of prefix (a Matryoshka loss), on texts that no seed draws.

Shapes: B rows, T words.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import Tensor

import limbeck.assets
from limbeck.adapters.sentence import Sentence
from limbeck.beds import Bed
from limbeck.data import Table
from limbeck.probes.retrieval import ndcg
from limbeck.rng import Rng, derive

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["PREFIXES", "TEACHER", "TOPICS", "bed", "embedder", "splits", "texts"]

TOPICS, OWN, SHARED = 40, 8, 80
SPECIAL = ("[PAD]", "[UNK]")
ON_TOPIC = 0.4  # the share of words that are the topic's own
LENGTHS = {False: (3, 6), True: (10, 16)}  # words of a query, of a document
PREFIXES = (8, 16, 32, 64)
VOCABULARY = (*SPECIAL, *(f"w{i}" for i in range(TOPICS * OWN + SHARED)))
TEACHER = Path(str(limbeck.assets.__file__)).parent / "retrieval-teacher" / "model.safetensors"


def texts(rng: Rng, topics_B: Tensor, document_B: Tensor) -> dict[str, Tensor]:
    """Write texts about topics.

    Args:
        rng: B streams.
        topics_B: the topic of each.
        document_B: bool, whether it is a document.

    Returns:
        Columns `tokens` (B, T), `length` (B,), `y` (B,) and `document` (B,).

    Example:
        >>> rng, y = Rng(("seed", 0), torch.arange(2)), torch.tensor([3, 5])
        >>> sorted(texts(rng, y, torch.tensor([True, False])))
        ['document', 'length', 'tokens', 'y']
    """
    low_B, high_B = (torch.tensor([LENGTHS[False][i], LENGTHS[True][i]])[document_B.long()] for i in (0, 1))
    most = LENGTHS[True][1]
    length_B = low_B + (rng.uniform("length").view(-1) * (high_B - low_B + 1)).long()
    own_BT = topics_B[:, None] * OWN + rng.integers("own", OWN, most)
    shared_BT = TOPICS * OWN + rng.integers("shared", SHARED, most)
    words_BT = torch.where(rng.uniform("which", most) < ON_TOPIC, own_BT, shared_BT) + len(SPECIAL)
    tokens_BT = words_BT.where(torch.arange(most) < length_B[:, None], 0)
    return {"tokens": tokens_BT, "length": length_B, "y": topics_B, "document": document_B}


def splits(seed: int, *, train: int = 4096, documents: int = 400, queries: int = 400) -> dict[str, Table]:
    """Draw texts to learn from, half of them queries, and two sets of queries and documents.

    The splits are independent draws.

    Args:
        seed: what the draws belong to.
        train: rows of "train".
        documents: of "valid" and of "test", as many of each topic.
        queries: likewise.
    """
    held = torch.arange(documents + queries)
    sizes = {"train": torch.arange(train) % 2 == 0, "valid": held < documents, "test": held < documents}
    return {name: Table(_drawn(("retrieval", seed, name), document_B)) for name, document_B in sizes.items()}


def _drawn(key: tuple[object, ...], document_B: Tensor) -> dict[str, Tensor]:
    rows = torch.arange(len(document_B))
    # topics go round among the documents and among the queries
    place_B = torch.where(document_B, document_B.cumsum(0), (~document_B).cumsum(0))
    return texts(Rng(key, rows), place_B % TOPICS, document_B)


def _tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token=SPECIAL[1]))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token=SPECIAL[0], unk_token=SPECIAL[1], model_max_length=LENGTHS[True][1]
    )


def embedder(seed: int, *, width: int, layers: int) -> Sentence:
    """Build an untrained embedder that pools by the mean.

    Args:
        seed: what its weights are drawn from; the global generator is left as it was.
        width: of the hidden states and the embedding.
        layers: the number of blocks.

    Source: Devlin et al., "BERT", arXiv:1810.04805 (the architecture).
    """
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=len(VOCABULARY), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=4, max_position_embeddings=LENGTHS[True][1], hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, initializer_range=width**-0.5 / 2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive("retrieval", seed, width))
        return Sentence(BertModel(config, add_pooling_layer=False).eval(), _tokenizer())


def _teacher(_seed: int) -> Sentence:
    net = embedder(0, width=PREFIXES[-1], layers=2)
    net.load_state_dict(load_file(TEACHER))
    return net


bed = Bed(
    key="retrieval",
    about="Queries and documents about 40 topics, so relevance is known; a teacher whose prefixes are embeddings too.",
    players={"teacher": _teacher, "student": lambda seed: embedder(seed, width=16, layers=1)},
    data=splits,
    probes={"ndcg": ndcg()},
)
