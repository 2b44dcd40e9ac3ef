"""Losses of class scores: against labels, and against the scores of a teacher.

Legend of shapes: B rows, C classes.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import kl_div, mse_loss

from limbeck.batch import Batch
from limbeck.part import part
from limbeck.players import Players

__all__ = ["cross_entropy", "kl", "mse_logits", "squared_error"]


@part
def cross_entropy(players: Players, batch: Batch, *, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of the student with the labels `y`.

    -sum_c t_c log p_c, t = (1 - smoothing) onehot(y) + smoothing / C

    Args:
        players: the student answers "logits" (B, C).
        batch: y (B,) int64, the class; or (B, C), a probability for each.
        smoothing: the weight of the uniform distribution in the target.

    Returns:
        (B,) nats.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> players = SimpleNamespace(student=lambda batch, want: torch.zeros(1, 2))
        >>> cross_entropy()(players, Batch({"y": torch.tensor([0])}))
        tensor([0.6931])

    Source: Szegedy et al., arXiv:1512.00567, section 7 (smoothing).
    """
    return nn.functional.cross_entropy(
        players.student(batch, "logits"), batch.y, label_smoothing=smoothing, reduction="none"
    )


@part
def kl(players: Players, batch: Batch, *, temperature: float = 4.0) -> Tensor:
    """Divergence of the student from the teacher, both softened by a temperature T.

    T^2 KL(softmax(t / T) || softmax(s / T)); the factor keeps the gradient's size as T grows

    Args:
        players: teacher and student answer "logits" (B, C).
        batch: the rows.
        temperature: T.

    Returns:
        (B,) nats times T^2.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> teacher, student = torch.tensor([[0.0, 4.0]]), torch.tensor([[0.0, 0.0]])
        >>> players = SimpleNamespace(teacher=lambda batch, want: teacher, student=lambda batch, want: student)
        >>> kl(temperature=1.0)(players, Batch({"x": teacher}))
        tensor([0.6031])

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network", arXiv:1503.02531, section 2.
    """
    student_BC = (players.student(batch, "logits") / temperature).log_softmax(-1)
    teacher_BC = (players.teacher(batch, "logits") / temperature).log_softmax(-1)
    return temperature**2 * kl_div(student_BC, teacher_BC, reduction="none", log_target=True).sum(-1)


@part
def mse_logits(players: Players, batch: Batch) -> Tensor:
    """Squared distance of the student's scores from the teacher's, averaged over classes.

    mean_c (s_c - t_c)^2, the limit of `kl` at infinite temperature for centred scores, times 2

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> scores = {"student": torch.tensor([[1.0, 2.0]]), "teacher": torch.tensor([[1.0, 4.0]])}
        >>> players = SimpleNamespace(**{name: lambda batch, want, z=z: z for name, z in scores.items()})
        >>> mse_logits()(players, Batch({"x": torch.zeros(1)}))
        tensor([2.])

    Source: Ba and Caruana, "Do Deep Nets Really Need to be Deep?", arXiv:1312.6184, equation 2.
    """
    return mse_loss(players.student(batch, "logits"), players.teacher(batch, "logits"), reduction="none").mean(-1)


@part
def squared_error(players: Players, batch: Batch) -> Tensor:
    """Squared distance of the student's probabilities from the teacher's.

    sum_c (softmax(s)_c - softmax(t)_c)^2

    Example:
        >>> import torch
        >>> sure, unsure = torch.tensor([[0.0, 100.0]]), torch.tensor([[0.0, 0.0]])
        >>> players = {"student": lambda batch, want: unsure, "teacher": lambda batch, want: sure}
        >>> squared_error()(players, Batch({"x": torch.zeros(1)}))
        tensor([0.5000])
    """
    student_BC, teacher_BC = (players[name](batch, "logits").softmax(-1) for name in ("student", "teacher"))
    return (student_BC - teacher_BC).square().sum(-1)
