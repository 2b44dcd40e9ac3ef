"""Derivatives that are held fixed: values, slopes and gradients against float64 quotients and plain forward mode."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from limbeck.errors import BadValue
from limbeck.parts.held import held_jvp
from limbeck.parts.jvp import jvp

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Attending(nn.Module):
    """Attention over itself, and over a memory or under a mask, between normalisations and a perceptron."""

    def __init__(self, memory: bool = False, mask: bool = False) -> None:
        super().__init__()
        self.memory, self.mask = memory, mask
        self.norm, self.qkv, self.out = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(approximate="tanh"), nn.Linear(16, 8), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (z.unflatten(2, (2, 4)).transpose(1, 2) for z in self.qkv(self.norm(x)).chunk(3, 2))
        if self.memory:
            k, v = torch.linspace(-1, 1, 5 * 16, dtype=x.dtype).view(2, 1, 2, 5, 4).expand(2, len(x), 2, 5, 4)
        seen = torch.ones(6, 6, dtype=torch.bool).tril() if self.mask else None
        h = x + self.out(F.scaled_dot_product_attention(q, k, v, seen).transpose(1, 2).flatten(2))
        return h + self.mlp(F.layer_norm(h, (8,)))


class Grouped(nn.Module):
    """Convolutions, and group normalisation on activations whose channels come last."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv1d(6, 8, 3, padding=1), nn.GroupNorm(4, 8), nn.Conv2d(8, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)[:, :, None].to(memory_format=torch.channels_last)
        return self.b(F.silu(self.norm(h)))[:, :, 0] * x.mean() + F.group_norm(x, 2)


class Unet(nn.Module):
    """A small UNet of diffusers, as it comes."""

    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from diffusers import UNet2DModel
        self.net = UNet2DModel(
            sample_size=4, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=(8, 8),
            norm_num_groups=4, attention_head_dim=4, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.view(-1, 3, 4, 4), 3).sample.view_as(x)


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 8))


NETS = {
    "perceptron": perceptron, "attention": Attending, "over a memory": lambda: Attending(memory=True),
    "under a mask": lambda: Attending(mask=True), "convolutions": Grouped, "unet": Unet,
}  # fmt: skip


def point(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    return NETS[name]().to(dtype).eval(), *torch.randn(2, 4, 6, 8, dtype=dtype).unbind()


def gradients(net: nn.Module, value: Tensor) -> Tensor:
    found = torch.autograd.grad(value.square().sum(), list(net.parameters()), materialize_grads=True, allow_unused=True)
    return torch.cat([g.flatten() for g in found])


@pytest.mark.parametrize("name", NETS)
def test_values_slopes_and_gradients(name):
    net, x, d = point(name)
    value, slope = held_jvp(net, (x,), (d,))
    with torch.no_grad():
        quotient = (net(x + 1e-5 * d) - net(x - 1e-5 * d)) / 2e-5
    assert torch.allclose(slope, quotient, rtol=1e-6, atol=1e-6 * float(slope.abs().max()))
    assert torch.allclose(value, net(x), rtol=1e-9) and not slope.requires_grad
    assert torch.allclose(gradients(net, value), gradients(net, net(x)), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", NETS)
def test_single_precision_is_as_good_as_plain_forward_mode(name):
    net, x, d = point(name)
    with torch.no_grad():
        true = jvp(net, (x,), (d,))[1]
        net, x, d = net.float(), x.float(), d.float()
        off = [float((way(net, (x,), (d,))[1] - true).norm() / true.norm()) for way in (held_jvp, jvp)]
    assert off[0] <= 2 * off[1] + 1e-7


def test_half_precision():
    net, x, d = point("attention")
    true = held_jvp(net, (x,), (d,))[1]
    found = held_jvp(net.bfloat16(), (x.bfloat16(),), (d.bfloat16(),))[1]
    assert found.dtype == torch.bfloat16 and (found - true).norm() < 0.03 * true.norm()


def test_a_layer_costs_its_tangent_one_product():
    net, x, d = point("perceptron")
    counts = []
    for work in (lambda: net(x), lambda: held_jvp(net, (x,), (d,)), lambda: jvp(net, (x,), (d,))):
        with torch.no_grad(), FlopCounterMode(display=False) as flops:
            work()
        counts.append(flops.get_total_flops())
    assert counts[1] == 2 * counts[0]
    assert counts[2] == 3 * counts[0]  # where it is no longer, forward mode will do


def test_a_derivative_inside_the_net_keeps_its_gradient():
    net, x, d = point("perceptron")

    def bent(x: Tensor) -> Tensor:
        return jvp(net, (x,), (x,))[1]

    value, slope = held_jvp(bent, (x,), (d,))
    assert torch.allclose(gradients(net, value), gradients(net, bent(x)))
    assert torch.allclose(slope, jvp(bent, (x,), (d,))[1])


def test_weights_with_tangents():
    """A layer whose weights move too is no longer linear in its input."""
    x, w, dx, dw = torch.randn(4, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def fn(x: Tensor, w: Tensor) -> Tensor:
        return F.layer_norm(F.linear(x, w[0]), (3,), w[1, 0], w[1, 1]) + F.group_norm(x, 3, w[0, 0], w[0, 1])

    value, slope = held_jvp(fn, (x, w), (dx, dw))
    quotient = (fn(x + 1e-6 * dx, w + 1e-6 * dw) - fn(x - 1e-6 * dx, w - 1e-6 * dw)) / 2e-6
    assert torch.allclose(slope, quotient, rtol=1e-6) and torch.allclose(value, fn(x, w))


def test_inputs_that_layers_do_not_read_and_layers_in_place():
    net = nn.Sequential(nn.Linear(3, 3), nn.SiLU(inplace=True), nn.LayerNorm(3), nn.GroupNorm(1, 3), nn.GELU())
    x, t = torch.randn(2, 3), torch.ones(2, 1)
    value, slope = held_jvp(lambda x, t: net(x.detach().clone()) * t + net[:2](x), (x, t), (0 * x, t))
    with torch.no_grad():
        assert torch.allclose(value, net(x) + net[:2](x)) and torch.allclose(slope, net(x), atol=1e-6)


class Cubed(torch.autograd.Function):
    """x^3 without a forward-mode rule."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0].square() * g


def test_what_has_no_rule_goes_the_other_way():
    value, slope = held_jvp(Cubed.apply, (torch.tensor([1.0, 2.0]),), (torch.tensor([1.0, 0.5]),))
    assert value.tolist() == [1.0, 8.0] and slope.tolist() == [3.0, 6.0] and not slope.requires_grad


def test_what_fails_by_itself():
    with pytest.raises(RuntimeError, match="size of tensor a"):
        held_jvp(lambda x: x + torch.zeros(3), (torch.zeros(2),), (torch.ones(2),))
    with pytest.raises(BadValue, match="evaluation mode"):
        held_jvp(nn.BatchNorm1d(6), (torch.ones(2, 6, 4),), (torch.ones(2, 6, 4),))
