"""Embeddings of a student in its teacher's own space, so that one index serves both.

Legend of shapes: B rows, S student features, D teacher features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from limbeck.batch import Batch
from limbeck.errors import BadValue, Mismatch
from limbeck.part import part
from limbeck.players import Players, copied

__all__ = ["squared_distance", "turned", "with_output_map"]


@part
def with_output_map(players: Players, batch: Batch, *, normalise: bool = True) -> nn.Module:
    """Build the student again with a linear map into the teacher's space: one net, which is saved with its map.

    y = Norm(W_out pool(enc(x))), W_out (D, S)

    Args:
        players: student and teacher answer "embedding"; the student is copied.
        batch: rows on which they are asked for their sizes.
        normalise: whether the embeddings have length one.

    Raises:
        BadValue: a student that is no sentence embedder, whose layout has no place for a map.

    Source: Vujanic and Rueckstiess, "LEAF", arXiv:2509.12539 (the architecture of a leaf model).
    """
    from limbeck.adapters.sentence import Sentence  # recipes name this part: reading them needs no model library

    net = copied(players.student)
    if not isinstance(net, Sentence):
        raise BadValue(f"the student must be a sentence embedder, which a {type(net).__name__} is not")
    with torch.no_grad():
        inner_BS, outer_BD = (players[name](batch, "embedding") for name in ("student", "teacher"))
    w_out = nn.Linear(inner_BS.shape[1], outer_BD.shape[1], bias=False, dtype=inner_BS.dtype)
    net.dense.append(nn.Sequential(w_out, nn.Identity()))
    net.normalise = normalise
    return net


@part
def squared_distance(players: Players, batch: Batch, *, want: str = "embedding") -> Tensor:
    """The squared distance of the student's embedding from the teacher's, which is brought to length one.

    |y - t / |t||^2

    Args:
        players: `student` and `teacher` answer what is wanted, vectors of one size.
        batch: the rows.
        want: the answer that is compared.

    Returns:
        (B,).

    Raises:
        Mismatch: embeddings of different sizes.

    Source: Vujanic and Rueckstiess, "LEAF", arXiv:2509.12539 (the loss).
    """
    student_BD, teacher_BD = players.student(batch, want), players.teacher(batch, want)
    if student_BD.shape != teacher_BD.shape:
        sizes = f"{student_BD.shape[1]} and {teacher_BD.shape[1]}"
        raise Mismatch(f"student and teacher give embeddings of {sizes} features; with_output_map joins their spaces")
    return (student_BD - normalize(teacher_BD, dim=1)).square().sum(1)


@part
def turned(players: Players, batch: Batch, *, column: str = "cache.embedding", seed: int = 0) -> Batch:
    """Turn embeddings by one rotation drawn at random: all angles between them stay, and the teacher's space is left.

    t_i <- Q t_i, Q orthogonal

    Args:
        players: not asked.
        batch: the rows.
        column: the column that is turned, (B, D).
        seed: what the rotation is drawn from.

    Example:
        >>> rows = Batch({"cache.embedding": torch.eye(3)})
        >>> q = turned()(None, rows)["cache.embedding"]
        >>> torch.allclose(q @ q.T, torch.eye(3), atol=1e-6), torch.equal(q, torch.eye(3))
        (True, False)
    """
    t_BD = batch[column]
    drawn_DD = torch.randn(t_BD.shape[1], t_BD.shape[1], generator=torch.Generator().manual_seed(seed))
    q_DD = torch.linalg.qr(drawn_DD.double()).Q.to(t_BD)
    return batch.with_(**{column: t_BD @ q_DD.mT})
