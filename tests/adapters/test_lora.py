"""Low-rank changes, against linear algebra: their rank, their scale, what they leave alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limbeck.adapters.lora import with_lora
from limbeck.adapters.source import open_player
from limbeck.adapters.weights import wrapped
from limbeck.batch import Batch
from tests.adapters import tiny


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write("llama", tmp_path_factory.mktemp("home") / "llama")


def stir(net: nn.Module) -> None:
    """Give the changes values as if they had learnt."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if "lora_" in name:
                p.copy_(0.1 * torch.randn(p.shape, generator=g))


def adapted(net: nn.Module) -> dict[str, Any]:
    return {name: m for name, m in net.named_modules() if hasattr(m, "lora_A")}


def logits(net: nn.Module) -> Tensor:
    rows = Batch({"tokens": torch.arange(1, 13).reshape(2, 6), "length": torch.tensor([6, 6])})
    with torch.no_grad():
        return net(rows, frozenset({"head"}))["head"].logits()


@pytest.mark.parametrize(("rank", "alpha"), [(1, 8), (3, 3), (5, 32)])
def test_a_change_is_the_scaled_product_and_has_its_rank(home: Path, rank: int, alpha: int) -> None:
    net = with_lora(open_player(home), rank=rank, alpha=alpha)
    stir(net)
    for layer in adapted(net).values():
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        before = layer.base_layer.weight.clone()
        layer.merge()
        change = (layer.base_layer.weight - before).double()
        torch.testing.assert_close(change, (alpha / rank * b @ a).double(), atol=1e-5, rtol=1e-4)
        sizes = torch.linalg.svdvals(change)
        assert sizes[rank - 1] > 1e-3 * sizes[0] and (sizes[rank:] < 1e-4 * sizes[0]).all()


def test_as_many_weights_learn_as_the_formula_says_and_the_output_layer_is_left_alone(home: Path) -> None:
    net = with_lora(open_player(home), rank=4)
    found = adapted(net)
    shapes = [layer.base_layer.weight.shape for layer in found.values()]
    learning = sum(p.numel() for p in net.parameters() if p.requires_grad)
    assert learning == sum(4 * (out + into) for out, into in shapes)
    # Four projections of attention and three of the feed-forward, in each of four layers.
    assert len(found) == 28 and not any("lm_head" in name for name in found)


def test_only_the_layers_that_are_named_get_a_change(home: Path) -> None:
    net = with_lora(open_player(home), rank=2, targets=("q_proj", "v_proj"))
    assert {name.rsplit(".", 1)[1] for name in adapted(net)} == {"q_proj", "v_proj"}
    assert len(adapted(net)) == 8


def test_a_step_moves_the_changes_and_no_weight_of_the_base(home: Path) -> None:
    net = with_lora(open_player(home), rank=2)
    base = {name: p.clone() for name, p in net.named_parameters() if not p.requires_grad}
    optimiser = torch.optim.SGD([p for p in net.parameters() if p.trainable], lr=1.0)
    start = logits(net)
    rows = Batch({"tokens": torch.arange(1, 13).reshape(2, 6), "length": torch.tensor([6, 6])})
    net(rows, frozenset({"head"}))["head"].logits().square().mean().backward()
    # b starts at zero: at the first step it alone has a gradient, since that of a is multiplied by b.
    for name, p in net.named_parameters():
        if "lora_A" in name:
            assert not p.grad.any()
        assert ("lora_B" in name) == (p.grad is not None and bool(p.grad.any()))
    optimiser.step()
    assert all(torch.equal(p, base[name]) for name, p in net.named_parameters() if name in base)
    assert (logits(net) - start).abs().max() > 1e-4


def test_answers_with_changes_are_those_of_the_merged_weights(home: Path) -> None:
    net = with_lora(open_player(home), rank=3)
    stir(net)
    beside = logits(net)
    for layer in adapted(net).values():
        layer.merge()
    torch.testing.assert_close(logits(net), beside, atol=1e-4, rtol=1e-4)
    with wrapped(net).disable_adapter():
        torch.testing.assert_close(logits(net), logits(open_player(home)), atol=1e-4, rtol=1e-4)


def test_the_seed_decides_the_start_and_the_global_generator_is_left_alone(home: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    starts = []
    for seed in (0, 0, 1):
        net = open_player(home)
        torch.manual_seed(5)
        made = adapted(with_lora(net, rank=2, seed=seed))
        assert torch.equal(torch.rand(3), expected)
        starts.append(torch.cat([layer.lora_A["default"].weight.detach().flatten() for layer in made.values()]))
        assert not any(layer.lora_B["default"].weight.any() for layer in made.values())
    assert torch.equal(starts[0], starts[1]) and not torch.equal(starts[0], starts[2])
