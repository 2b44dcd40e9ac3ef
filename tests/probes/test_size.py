"""The probes of cost against numbers counted by hand."""

from __future__ import annotations

import time

import pytest
import torch
from safetensors.torch import save
from torch import nn

from limbeck.beds import arith
from limbeck.data import Table
from limbeck.errors import BadValue
from limbeck.players import Player, Players
from limbeck.probes import size
from limbeck.roles import cached, frozen


class Chain(nn.Module):
    """10 -> 20 -> 20 without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(10, 20, bias=False), nn.Linear(20, 20, bias=False)

    def forward(self, batch, want):
        return {"logits": self.b(self.a(batch["x"]))}


class Sleeper(nn.Module):
    """Takes 10 ms for any batch."""

    def forward(self, batch, want):
        time.sleep(0.01)
        return {"logits": batch["x"]}


def _game(net: nn.Module) -> tuple[Players, dict[str, Table]]:
    return Players({"student": Player("student", frozen(), net)}), {"test": Table({"x": torch.zeros(8, 10)})}


def test_weights_are_counted_once_and_buffers_are_not_weights() -> None:
    net = Chain()
    net.register_buffer("mean", torch.zeros(5))
    net.again = net.a  # tied
    assert size.parameters()(*_game(net)) == 10 * 20 + 20 * 20
    assert size.weight_bytes()(*_game(net)) == 4 * (600 + 5)


def test_half_precision_halves_the_bytes() -> None:
    assert size.weight_bytes()(*_game(Chain().to(torch.bfloat16))) == 2 * 600


def test_bytes_are_those_of_a_safetensors_file_less_its_header() -> None:
    net = Chain()
    file = save({k: v.detach() for k, v in net.state_dict().items()})
    header = 8 + int.from_bytes(file[:8], "little")
    assert size.weight_bytes()(*_game(net)) == len(file) - header


def test_throughput_is_rows_over_the_time_of_one_forward() -> None:
    # 64 rows in 10 ms and a little: at most 6400 rows a second, and not half as many
    assert 3200 < size.throughput()(*_game(Sleeper())) <= 6400


def test_peak_memory_is_weights_and_both_activations() -> None:
    assert size.peak_memory(rows=64)(*_game(Chain())) == 4 * 600 + 2 * 64 * 20 * 4


def test_peak_memory_forgets_what_has_died() -> None:
    class Deep(nn.Module):
        def forward(self, batch, want):
            x = batch["x"]
            for _ in range(20):
                x = x + 1
            return {"logits": x}

    # an addition holds its input and its output, never the twenty before
    assert size.peak_memory(rows=64)(*_game(Deep())) == 2 * 64 * 10 * 4


def test_decoding_speed_counts_tokens() -> None:
    players = Players({"student": Player("student", frozen(), arith.student(0))})
    assert size.decoding_speed(rows=4, new_tokens=4, runs=1)(players, arith.splits(0, train=64)) > 0


def test_a_player_without_a_net_has_no_size() -> None:
    with pytest.raises(BadValue, match="no net"):
        size.parameters()(Players({"student": Player("student", cached())}), {})
