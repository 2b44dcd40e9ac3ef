"""Flows on the simplex along Dirichlet distributions: letters are corners, noise is even over the whole.

The path to a letter i is Dir(1 + (alpha - 1) e_i), with alpha = 1 for noise and growing alpha towards the corner; it is
not the straight path of `limbeck.parts.states`, for the support of that shrinks as it goes, and with it what a noisy
letter can still become. A player answers "logits" (B, T, K), of what each letter is, on x (B, T, K) and alpha (B,).

Shapes: B rows, T letters, K kinds.
"""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.part import part
from limbeck.players import Player, Players
from limbeck.rng import Rng

__all__ = [
    "dirichlet_flow",
    "dirichlet_states",
    "flow_ends",
    "flow_pairs",
    "letters",
    "on_simplex",
    "one_pass",
    "pull",
    "simplex_noise",
    "straight_pairs",
    "toward_corner",
]


def _exponential(rng: Rng, name: str, *shape: int) -> Tensor:
    return -rng.uniform(name, *shape).log()


def simplex_noise(rng: Rng, name: str, letters: int, kinds: int) -> Tensor:
    """Draw evenly from the simplex: Dir(1, ..., 1).

    Args:
        rng: the random streams of the rows.
        name: the name of this draw.
        letters: T.
        kinds: K.

    Returns:
        (B, T, K).

    Example:
        >>> x = simplex_noise(Rng(("seed",), torch.arange(5)), "x", 2, 3)
        >>> bool(torch.allclose(x.sum(2), torch.ones(5, 2)))
        True
    """
    e = _exponential(rng, name, letters, kinds)
    return e / e.sum(2, keepdim=True)


def toward_corner(rng: Rng, tokens: Tensor, alpha: Tensor, kinds: int) -> Tensor:
    """Draw from the path to each letter at a level.

    x ~ Dir(1 + (alpha - 1) e_i): x_i = prod_{k < K - 1} U_k^(1 / (alpha + k)) ~ Beta(alpha, K - 1), the rest even

    Args:
        rng: the random streams of the rows.
        tokens: (B, T) letters i.
        alpha: (B,), 1 or more.
        kinds: K.

    Returns:
        (B, T, K).

    Raises:
        BadValue: a letter outside 0 .. K - 1.

    Source: Stark et al., arXiv:2402.05841, equation 14; a beta variable with a whole parameter is such a product.
    """
    if bool(((tokens < 0) | (tokens >= kinds)).any()):
        raise BadValue(f"letters must lie in 0 .. {kinds - 1}, got {int(tokens.min())} to {int(tokens.max())}")
    length = tokens.shape[1]
    rates = alpha.view(-1, 1, 1) + torch.arange(kinds - 1, device=alpha.device)
    own = (-(_exponential(rng, "corner", length, kinds - 1) / rates).sum(2, keepdim=True)).exp()
    corner = torch.nn.functional.one_hot(tokens, kinds).to(own)
    rest = _exponential(rng, "rest", length, kinds) * (1 - corner)
    return own * corner + (1 - own) * rest / rest.sum(2, keepdim=True)


def pull(b: Tensor, alpha: Tensor, kinds: int) -> Tensor:
    """How strongly the path to a letter pulls a point towards its corner: u(x | i) = C(x_i, alpha) (e_i - x).

    C(b, a) = -dI_b(a, n)/da B(a, n) / ((1 - b)^n b^(a-1)),  n = K - 1, I the regularised incomplete beta function

    For a whole n, I_b(a, n) = b^a sum_{j<n} (a)_j / j! (1 - b)^j, and its derivative in a is a sum over the same j.
    What j < n add, all j >= n take away, and that is what is summed near the corner, where 1 - b is small.

    Args:
        b: (...) the coordinate of the letter, in [0, 1].
        alpha: of a shape that broadcasts with b; 1 or more.
        kinds: K, at least 2.

    Returns:
        (...), at least 0, in float64.

    Raises:
        BadValue: fewer than two kinds.

    Example:
        >>> alpha = torch.ones((), dtype=torch.float64)
        >>> round(float(pull(torch.full((), 0.5), alpha, 2)), 4)  # -b log(b) / (1 - b)
        0.6931

    Source: Stark et al., arXiv:2402.05841, the conditional vector field, where the derivative is a finite difference.
    """
    if kinds < 2:
        raise BadValue(f"a letter needs two kinds at least, got {kinds}")
    n, a = kinds - 1, alpha.double()
    b = b.double().clamp(1e-30, 1.0)
    near, half = b > 0.5, torch.full_like(b, 0.5)
    from_corner = _slope(b.where(near, half), a, n, n + 160)
    from_far = -_slope(b.where(~near, half), a, 0, n) / (1 - b).clamp(min=0.4).pow(n)
    beta = (torch.lgamma(a) + torch.lgamma(torch.full_like(a, n)) - torch.lgamma(a + n)).exp()
    return (b * beta * torch.where(near, from_corner, from_far)).clamp(min=0)


def _slope(b: Tensor, a: Tensor, first: int, end: int) -> Tensor:
    """Terms of dI_b(a, n)/da, from `first` to before `end`, without b^a (1 - b)^first.

    sum_j (a)_j / j! (1 - b)^(j - first) [log b + sum_{m<j} 1 / (a + m)]
    """
    log_b, total = b.log(), torch.zeros_like(b * a)
    term, harmonic = torch.ones_like(b * a), torch.zeros_like(b * a)
    for j in range(end):
        if j >= first:
            total = total + term * (log_b + harmonic)
            term = term * (1 - b)
        term = term * (a + j) / (j + 1)
        harmonic = harmonic + 1 / (a + j)
    return total


@part
def dirichlet_states(players: Players, batch: Batch, *, scale: float = 2.0) -> Batch:
    """Noised letters at random levels.

    alpha = 1 + Exp(scale), x ~ Dir(1 + (alpha - 1) e_i)

    Args:
        players: the student has `kinds`, K.
        batch: letters in `tokens`.
        scale: the mean of alpha - 1.

    Returns:
        The batch with x (B, T, K) and alpha (B,).

    Raises:
        BadValue: a letter outside 0 .. K - 1.

    Source: Stark et al., arXiv:2402.05841, the training of the classifier.
    """
    alpha = 1 + scale * _exponential(batch.rng, "level").view(-1)
    return batch.with_(x=toward_corner(batch.rng, batch.tokens, alpha, players.student.kinds), alpha=alpha)


@part
def letters(players: Players, batch: Batch) -> Tensor:
    """Tell the letters behind a noised sequence.

    mean_l -log p(z_l | x, alpha)

    Args:
        players: the student answers "logits" (B, T, K) on x and alpha.
        batch: x, alpha, and the letters z in `tokens`.

    Returns:
        (B,).

    Source: Stark et al., arXiv:2402.05841, the loss of the classifier.
    """
    logits = players.student(batch, "logits")
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch.tokens, reduction="none").mean(1)


def on_simplex(x: Tensor) -> Tensor:
    """The nearest point of the simplex.

    max(x - theta, 0), where theta makes the sum 1

    Args:
        x: (..., K).

    Returns:
        (..., K).

    Example:
        >>> on_simplex(torch.tensor([1.5, 0.5, -3.0]))
        tensor([1., 0., 0.])

    Source: Wang and Carreira-Perpinan, arXiv:1309.1541.
    """
    u = x.sort(-1, descending=True).values
    over = u.cumsum(-1) - 1
    count = torch.arange(1, x.shape[-1] + 1, device=x.device)
    used = (u * count > over).sum(-1, keepdim=True)
    return (x - over.gather(-1, used - 1) / used).clamp(min=0)


def _pulls(x: Tensor, alpha: float) -> Tensor:
    """C(x_i, alpha) of every letter, from a table of 2000 values."""
    table = pull(torch.linspace(0, 1, 2001), torch.tensor(alpha), x.shape[-1]).to(x)
    place = 2000 * x.clamp(0, 1)
    low = place.long().clamp(max=1999)
    return torch.lerp(table[low], table[low + 1], place - low)


def _positive(steps: int) -> None:
    if steps < 1:
        raise BadValue(f"a flow needs at least one evaluation, got steps = {steps}")


def flow_ends(player: Player, batch: Batch, x: Tensor, steps: int, top: float) -> Tensor:
    """Carry even noise to letters along a player's field, with Euler's method.

    dx/dalpha = sum_i C(x_i, alpha) (e_i - x) p(i | x, alpha), from alpha = 1 to `top`; then argmax_i p(i | x, alpha)

    Args:
        player: answers "logits" on x and alpha.
        batch: the rows, whose other columns (a class `y`) go along.
        x: (B, T, K) even noise.
        steps: evaluations; the last one reads the letters, so that one alone does not move.
        top: where alpha ends.

    Returns:
        (B, T) letters.

    Source: Stark et al., arXiv:2402.05841, the marginal vector field.
    """
    _positive(steps)
    levels = torch.linspace(1, top, steps).tolist()
    for i, alpha in enumerate(levels):
        at = torch.full((batch.size,), alpha, dtype=x.dtype, device=x.device)
        p = player(batch.with_(x=x, alpha=at), "logits").softmax(-1)
        if i + 1 < steps:
            toward = p * _pulls(x, alpha)
            move = toward - x * toward.sum(-1, keepdim=True)
            x = on_simplex(x + (levels[i + 1] - alpha) * move)
    return p.argmax(-1)  # type: ignore[no-any-return]


def _start(batch: Batch, kinds: int) -> Tensor:
    return simplex_noise(batch.rng, "z", batch.tokens.shape[1], kinds)


@part
def dirichlet_flow(players: Players, batch: Batch, *, steps: int = 100, top: float = 8.0) -> Tensor:
    """Sample the student along its flow.

    dx/dalpha = sum_i C(x_i, alpha) (e_i - x) p(i | x, alpha), from x ~ Dir(1) at alpha = 1 to `top`

    Args:
        players: the student answers "logits", and has `kinds`, K.
        batch: rows whose column `tokens` has the length of a sequence.
        steps: evaluations.
        top: where alpha ends.

    Returns:
        (B, T) letters.

    Raises:
        UnknownName: the batch has no column `tokens`.

    Source: Stark et al., arXiv:2402.05841, the sampling of the flow.
    """
    return flow_ends(players.student, batch, _start(batch, players.student.kinds), steps, top)


@part
def one_pass(players: Players, batch: Batch) -> Tensor:
    """Sample a distilled student: noise goes in, letters come out.

    argmax_i p(i | x, 1), x ~ Dir(1)

    Args:
        players: the student answers "logits", and has `kinds`, K.
        batch: rows whose column `tokens` has the length of a sequence.

    Returns:
        (B, T) letters.

    Raises:
        UnknownName: the batch has no column `tokens`.

    Source: Stark et al., arXiv:2402.05841, distillation.
    """
    return flow_ends(players.student, batch, _start(batch, players.student.kinds), 1, 1.0)


@part
def flow_pairs(players: Players, batch: Batch, *, steps: int = 100, top: float = 8.0) -> Batch:
    """Rows of noise and of the letters that the teacher's flow makes of it.

    x ~ Dir(1), z = the end of the flow from x

    Args:
        players: the teacher answers "logits", and has `kinds`, K.
        batch: rows whose column `tokens` has the length of a sequence; its letters are not read.
        steps: evaluations.
        top: where alpha ends.

    Returns:
        The batch with x (B, T, K), alpha = 1, and the letters in `tokens`.

    Source: Stark et al., arXiv:2402.05841, distillation.
    """
    x = _start(batch, players.teacher.kinds)
    tokens = flow_ends(players.teacher, batch, x, steps, top)
    return batch.with_(x=x, tokens=tokens, alpha=torch.ones(batch.size, device=x.device))


@part
def straight_pairs(players: Players, batch: Batch, *, steps: int = 100) -> Batch:
    """Rows of noise and of the letters that the flow along straight lines makes of it: the path that this one replaces.

    x = (1 - r) x' + r e_i, x' ~ Dir(1);  dx/dr = (p(. | x, r) - x) / (1 - r), from r = 0 to 1

    Only letters with x_i >= r are possible, so from r = 1/2 on nothing is left to decide.

    Args:
        players: the teacher answers "logits" on x and `share` (B,), the r of its row, and has `kinds`, K.
        batch: rows whose column `tokens` has the length of a sequence; its letters are not read.
        steps: evaluations.

    Returns:
        The batch with x (B, T, K), alpha = 1, and the letters in `tokens`.

    Source: Stark et al., arXiv:2402.05841, the pitfalls of linear paths.
    """
    _positive(steps)
    start = x = _start(batch, players.teacher.kinds)
    for i in range(steps):
        r = torch.full((batch.size,), i / steps, dtype=x.dtype, device=x.device)
        p = players.teacher(batch.with_(x=x, share=r), "logits").softmax(-1)
        x = x + (p - x) / (steps - i)
    return batch.with_(x=start, tokens=p.argmax(-1), alpha=torch.ones(batch.size, device=x.device))
