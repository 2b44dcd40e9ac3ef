"""Players in grades: students cut to a share of their width, teachers made worse by as much as one likes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from limbeck.adapters.surgery import shrink
from limbeck.batch import Batch
from limbeck.errors import BadValue
from limbeck.kernels.head import TokenHead
from limbeck.part import part
from limbeck.players import Players

__all__ = ["Tempered", "sized", "tempered"]


@part
def sized(players: Players, batch: Batch, *, width: float = 1.0) -> nn.Module:
    """Build the student again, cut to a share of its width.

    Args:
        players: `student`, the largest there is.
        batch: not read.
        width: the share.

    Raises:
        BadValue: a share outside (0, 1], or one that leaves no whole head.
    """
    return shrink(players["student"].module, width=width)  # type: ignore[arg-type]


class Tempered(nn.Module):
    """A language model at another temperature.

    Args:
        net: the model, which is not among the weights of this one.
        temperature: of its softmax.

    Raises:
        BadValue: a temperature that is not positive.
    """

    def __init__(self, net: nn.Module, temperature: float) -> None:
        super().__init__()
        if temperature <= 0:
            raise BadValue(f"a teacher needs a temperature above 0, got {temperature:g}")
        self._inner, self.temperature = (net,), temperature  # a tuple, so that its weights stay its own

    def __getattr__(self, name: str) -> Any:
        """Reach what the model has: tokenizer, vocabulary, context."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_inner"][0], name)

    def forward(self, batch: Batch, want: frozenset[str]) -> dict[str, Any]:
        """Answer "head" and "logits" as the model does, divided by the temperature.

        Args:
            batch: as the model reads it.
            want: names of answers.
        """
        return {name: self._cooled(answer) for name, answer in self._inner[0](batch, want).items()}

    def _cooled(self, answer: Any) -> Any:
        if not isinstance(answer, TokenHead):
            return answer / self.temperature
        cap = None if answer.softcap is None else answer.softcap / self.temperature
        return replace(answer, scale=answer.scale / self.temperature, softcap=cap)


@part
def tempered(players: Players, batch: Batch, *, temperature: float = 1.0) -> nn.Module:
    """Build a worse teacher of the teacher: its distributions flattened, or sharpened.

    softmax(z / temperature)

    Args:
        players: `teacher`.
        batch: not read.
        temperature: 1 leaves it as it is.

    Raises:
        BadValue: a temperature that is not positive.
    """
    return Tempered(players["teacher"].module, temperature)  # type: ignore[arg-type]
