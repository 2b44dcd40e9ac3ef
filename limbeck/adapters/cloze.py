"""Black boxes that fill a gap in a text: asked for the probabilities of the words that may stand there, and no more.

A black box of this kind is a net with `mask`, the sign that marks the gap in a text; `asked`, the number of texts that
it has answered, which is what its owner charges for; and one answer, "mask_probs" (B, V), on the column `text`: B texts
with one gap each. Whether it is a model on this machine or a server elsewhere, its players cannot tell.

Shapes: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.adapters.encoder import Encoder
from limbeck.batch import Batch
from limbeck.errors import BadData, Mismatch
from limbeck.kernels.head import TokenHead

__all__ = ["Cloze"]


class Cloze(nn.Module):
    """A masked language model, seen through the keyhole of its answers at the gap.

    Args:
        encoder: the model with its tokenizer.
        rows: texts in one forward.

    Attributes:
        mask: the sign of the gap.
        asked: texts answered so far.

    Raises:
        Mismatch: the tokenizer has no sign for a gap.
    """

    def __init__(self, encoder: Encoder, rows: int = 256) -> None:
        super().__init__()
        self.encoder, self.rows, self.asked = encoder, rows, 0
        self.mask: str = encoder.tokenizer.mask_token or ""
        if not self.mask:
            raise Mismatch("the tokenizer has no mask token: the model fills no gaps")

    def forward(self, batch: Mapping[str, Any], want: frozenset[str]) -> dict[str, Any]:
        """Answer "mask_probs" (B, V) on `text`, B strings.

        Raises:
            BadData: a text without a gap, with two, or beyond the context of the model.
        """
        if "mask_probs" not in want:
            return {}
        texts = batch["text"]
        probs = [self._filled(texts[i : i + self.rows]) for i in range(0, len(texts), self.rows)]
        self.asked += len(texts)
        return {"mask_probs": torch.cat(probs)}

    @torch.no_grad()
    def _filled(self, texts: list[str]) -> Tensor:
        device = next(self.encoder.parameters()).device
        coded = self.encoder.tokenizer(texts, padding=True, return_tensors="pt").to(device)
        tokens_BT, length_B = coded["input_ids"], coded["attention_mask"].sum(1)
        gap_BT = tokens_BT == self.encoder.tokenizer.mask_token_id
        for at, (gaps, length) in enumerate(zip(gap_BT.sum(1).tolist(), length_B.tolist(), strict=True)):
            if gaps != 1:
                raise BadData(f"a text has {gaps} gaps {self.mask!r} in place of one: {texts[at][:60]!r}")
            if self.encoder.context and length > self.encoder.context:
                raise BadData(f"a text of {length} tokens exceeds the context of {self.encoder.context}; shorten it")
        asked = Batch({"tokens": tokens_BT, "length": length_B})
        head: TokenHead = self.encoder(asked, frozenset({"head"}))["head"]
        return head.at(gap_BT).logits().softmax(-1)
