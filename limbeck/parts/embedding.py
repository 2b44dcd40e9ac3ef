"""Embeddings of a student drawn towards those of a teacher, which is asked once for each row.

Legend of shapes: B rows, D features of an embedding.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cosine_similarity

from limbeck.batch import Batch
from limbeck.errors import Mismatch
from limbeck.part import part
from limbeck.players import Players

__all__ = ["cosine_distance", "remember"]


@part
def remember(players: Players, batch: Batch, *, want: str = "embedding") -> Batch:
    """Keep what the teacher answers beside the rows, for the player `cache`.

    cache_i = t(x_i)

    Args:
        players: `teacher` answers what is wanted.
        batch: the rows.
        want: the answer that is kept.

    Returns:
        The rows with a column `cache.<want>`.
    """
    kept = {name: column for name, column in batch.columns.items() if name != "index"}
    return Batch({**kept, f"cache.{want}": players.teacher(batch, want)})


@part
def cosine_distance(players: Players, batch: Batch, *, want: str = "embedding") -> Tensor:
    """The cosine distance between the student's embedding and the teacher's.

    1 - <s, t> / (|s| |t|), half the squared distance of the unit vectors

    Args:
        players: `student` and `teacher` answer what is wanted, vectors of one size.
        batch: the rows.
        want: the answer that is compared.

    Returns:
        (B,).

    Raises:
        Mismatch: embeddings of different sizes.

    Source: Reimers and Gurevych, "Making Monolingual Sentence Embeddings Multilingual using Knowledge Distillation",
        arXiv:2004.09813, section 2, first term, for embeddings of length one.
    """
    student_BD, teacher_BD = players.student(batch, want), players.teacher(batch, want)
    if student_BD.shape != teacher_BD.shape:
        sizes = f"{student_BD.shape[1]} and {teacher_BD.shape[1]}"
        raise Mismatch(f"student and teacher give embeddings of {sizes} features; they must have one size")
    return 1 - cosine_similarity(student_BD, teacher_BD, dim=1)
