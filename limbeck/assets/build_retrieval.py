"""Train the embedder of the bed `retrieval` and save its weights.

    python -m limbeck.assets.build_retrieval

A quarter of a minute on one core. It learns from pairs of a query and a document of one topic, by every prefix.

Legend of shapes: B pairs, D features.
"""

from __future__ import annotations

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from limbeck.batch import Batch
from limbeck.beds.retrieval import PREFIXES, TEACHER, TOPICS, embedder, texts
from limbeck.rng import Rng

__all__ = ["build", "matryoshka"]

STEPS, RATE, SHARPNESS = 300, 3e-3, 20.0


def matryoshka(query_BD: Tensor, document_BD: Tensor) -> Tensor:
    """Tell the document of each query from those of the others, by every prefix.

    mean_m -log softmax_j(a cos(q_i[:m], d_j[:m]))_i

    Args:
        query_BD: embeddings.
        document_BD: embeddings of the same rows.

    Returns:
        ().

    Source: Kusupati et al., "Matryoshka Representation Learning", arXiv:2205.13147, equation 1.
    """
    losses = []
    for m in PREFIXES:
        cosine_BB = normalize(query_BD[:, :m], dim=1) @ normalize(document_BD[:, :m], dim=1).mT
        losses.append(cross_entropy(SHARPNESS * cosine_BB, torch.arange(len(cosine_BB))))
    return torch.stack(losses).mean()


def build() -> None:
    """Train, print the loss, and save."""
    net, want = embedder(0, width=PREFIXES[-1], layers=2).train(), frozenset({"embedding"})
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    topics_B = torch.arange(TOPICS)
    for step in range(STEPS):
        rng = Rng(("retrieval", "teacher", step), topics_B)
        pair = [texts(rng.fold(d), topics_B, torch.full((TOPICS,), d)) for d in (False, True)]
        loss = matryoshka(*(net(Batch(rows), want)["embedding"] for rows in pair))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 49:
            print(f"step {step + 1:4d}  loss {loss.item():.4f}", flush=True)
    TEACHER.parent.mkdir(exist_ok=True)
    save_file({name: t.contiguous() for name, t in net.state_dict().items()}, TEACHER)


if __name__ == "__main__":
    build()
