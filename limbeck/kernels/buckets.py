"""A vocabulary put into buckets: some listed tokens, each its own outcome, and one outcome for all others.

Shapes: N rows, V tokens, K listed tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.parts.divergence import log_rest

__all__ = ["Buckets"]


class Buckets:
    """Both sides over K + 1 outcomes, the last of which is the rest.

    The rest of the student is summed over all its tokens and never taken as 1 minus the others, so that it is exact
    where it is small; the rest of the teacher is what its list leaves.

    Args:
        logits: (N, V) of the student, in float32 or better, already softened.
        ids: (N, K) integers, distinct tokens where logp is above -inf.
        logp: (N, K), log-probabilities of the teacher; -inf for padding.

    Example:
        >>> buckets = Buckets(torch.zeros(1, 4), torch.tensor([[2]]), torch.tensor([[0.7]]).log())
        >>> buckets.log_q.exp(), buckets.log_p.exp()
        (tensor([[0.2500, 0.7500]]), tensor([[0.7000, 0.3000]]))
        >>> buckets.spread(torch.tensor([[1.0, -3.0]])).round()
        tensor([[-1., -1.,  1., -1.]])
    """

    def __init__(self, logits: Tensor, ids: Tensor, logp: Tensor) -> None:
        logp = logp.to(logits.dtype)
        listed, likeliest = logp > -torch.inf, logp.argmax(-1, keepdim=True)
        # padding points to a token that is listed anyway, so that it takes nothing else out of the rest
        self.ids = ids.long().where(listed, ids.long().gather(-1, likeliest).clamp(0, logits.shape[-1] - 1))
        own = logits.gather(-1, self.ids).masked_fill_(~listed, -torch.inf)
        self._others = logits.scatter(-1, self.ids, -torch.inf)
        self._log_others = self._others.logsumexp(-1, keepdim=True)
        self.log_q = torch.cat((own, self._log_others), -1).log_softmax(-1)
        # a list of the whole vocabulary leaves no rest, whatever its rounding says
        rest = log_rest(logp, self._log_others[:, 0]).masked_fill(listed.sum(-1) == logits.shape[-1], -torch.inf)
        self.log_p = torch.cat((logp, rest[:, None]), -1)

    def spread(self, slope: Tensor) -> Tensor:
        """Turn derivatives by the outcomes' logits (N, K + 1) into those by the tokens' logits (N, V).

        A token of the rest gets its share of the last one. To be called once: it overwrites what it is made of.
        """
        least = torch.finfo(slope.dtype).min  # where no token is left, each has a share of 0
        share = self._others.sub_(self._log_others.clamp(min=least)).exp_()
        return share.mul_(slope[:, -1:]).scatter_add_(-1, self.ids, slope[:, :-1])
