"""Derivatives along a direction: attention, normalisation and whole nets as they come, against float64 quotients."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from limbeck.errors import BadValue
from limbeck.parts.jvp import checked_step, difference, double_vjp, jvp, reverse_agreement

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Attending(nn.Module):
    """A block of a diffusion transformer: modulated layer norms, fused attention, a perceptron."""

    def __init__(self, width: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.embed, self.level = nn.Linear(3, width), nn.Linear(1, 4 * width)
        self.qkv, self.out, self.read = nn.Linear(width, 3 * width), nn.Linear(width, width), nn.Linear(width, 3)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        a, b, c, d = self.level(t[:, None])[:, None].chunk(4, 2)
        h = self.embed(x.flatten(2).mT)
        normed = F.layer_norm(h, (self.width,)) * (1 + a) + b
        q, k, v = (s.unflatten(2, (self.heads, -1)).transpose(1, 2) for s in self.qkv(normed).chunk(3, 2))
        h = h + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        h = h + self.mlp(F.layer_norm(h, (self.width,)) * (1 + c) + d)
        return self.read(h).mT.view_as(x)


class Normed(nn.Module):
    """Convolutions and group normalisation on activations whose channels come last."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(4, 8), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        h = self.a(x).to(memory_format=torch.channels_last)
        return self.b(F.silu(self.norm(h)) * (1 + t[:, None, None, None]))


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

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.net(x.to(memory_format=torch.channels_last), t).sample


class Cubed(torch.autograd.Function):
    """x^3 without a forward-mode rule; with `once`, its gradient cannot be differentiated either."""

    @staticmethod
    def forward(ctx, x: Tensor, once: bool) -> Tensor:
        ctx.save_for_backward(x)
        ctx.once = once
        return x**3

    @staticmethod
    def backward(ctx, g: Tensor):
        (x,) = ctx.saved_tensors
        if ctx.once and torch.is_grad_enabled():
            raise RuntimeError("no second derivative")
        return 3 * x.square() * g, None


NETS = {"attention": Attending, "group norm": Normed, "unet": Unet}


def point(net: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, tuple[Tensor, ...], tuple[Tensor, ...]]:
    torch.manual_seed(0)
    made = NETS[net]().to(dtype).eval()
    x, dx = torch.randn(2, 2, 3, 4, 4, dtype=dtype)
    return made, (x, torch.tensor([0.3, 0.8], dtype=dtype)), (dx, torch.tensor([1.0, -2.0], dtype=dtype))


def quotient(fn, at, along, h: float = 1e-5) -> Tensor:
    ahead, behind = (fn(*(x + s * h * d for x, d in zip(at, along, strict=True))) for s in (1, -1))
    return (ahead - behind) / (2 * h)


@pytest.mark.parametrize("name", NETS)
def test_nets_as_they_come(name):
    net, at, along = point(name)
    value, slope = jvp(net, at, along)
    # the embedding of the level in diffusers is rounded to float32
    h, rtol = (1e-3, 1e-3) if name == "unet" else (1e-5, 1e-6)
    with torch.no_grad():
        assert torch.allclose(slope, quotient(net, at, along, h), rtol=rtol, atol=rtol * float(slope.abs().max()))
        assert torch.allclose(value, net(*at), rtol=1e-6)


@pytest.mark.parametrize("name", ["attention", "group norm"])
def test_forward_mode_alone_fails(name):
    """What is said of the kernels is still so; where it is no longer, the detour can go."""
    net, at, along = point(name, torch.float32)
    with pytest.raises(RuntimeError, match="view size" if name == "group norm" else "forward AD"):
        torch.func.jvp(net, at, along)


@pytest.mark.parametrize("name", ["attention", "group norm"])
def test_slope_is_differentiable_in_the_weights(name):
    net, at, along = point(name)
    weight = next(p for p in net.parameters() if p.ndim > 1)
    found = torch.autograd.grad(jvp(net, at, along)[1].square().sum(), weight)[0]
    push = torch.randn_like(weight)

    def loss(sign: float, h: float = 1e-5) -> Tensor:
        with torch.no_grad():
            weight.add_(push, alpha=sign * h)
            size = jvp(net, at, along)[1].square().sum() / (2 * h)
            weight.add_(push, alpha=-sign * h)
        return size

    assert torch.allclose((found * push).sum(), loss(1) - loss(-1), rtol=1e-5)


def grad_of_slope(way, fn) -> tuple[float, float]:
    """The derivative of a weighted slope along a push of x: by autograd, and by a float64 quotient."""
    torch.manual_seed(1)
    x, d, push = torch.randn(3, 2, 6, 4, dtype=torch.float64)
    x.requires_grad_()
    slope = way(fn, (x,), (d,))[1]
    weights = torch.randn_like(slope)
    found = (torch.autograd.grad((slope * weights).sum(), x)[0] * push).sum()
    h = 1e-6
    ahead, behind = ((way(fn, (x.detach() + s * h * push,), (d,))[1] * weights).sum() for s in (1, -1))
    return float(found), float(ahead - behind) / (2 * h)


RULES = {
    "layer norm": lambda x: F.layer_norm(x, (4,), torch.arange(4.0).double(), torch.ones(4).double()),
    "layer norm of two axes": lambda x: nn.LayerNorm((6, 4), dtype=torch.float64)(x),
    "instance norm": lambda x: nn.InstanceNorm1d(6, affine=True, dtype=torch.float64)(x),
    "group norm": lambda x: F.group_norm(x, 3),
    "glu": lambda x: F.glu(x, 1),
}


@pytest.mark.parametrize("name", RULES)
def test_gradients_of_slopes_through_normalisation(name):
    fn = RULES[name]
    found, true = grad_of_slope(jvp, fn)
    assert found == pytest.approx(true, rel=1e-5)
    x = torch.randn(2, 6, 4, dtype=torch.float64)
    assert torch.allclose(jvp(fn, (x,), (x,))[0], fn(x), atol=1e-9)


def test_pytorch_differentiates_the_slope_of_layer_norm_wrongly():
    """Where it no longer does, the formula can go."""
    found, true = grad_of_slope(torch.func.jvp, lambda x: F.layer_norm(x, (4,)))
    assert abs(found - true) > 0.01 * abs(true)


@pytest.mark.parametrize("net", [nn.BatchNorm1d(6), nn.InstanceNorm1d(6, track_running_stats=True)])
def test_rows_that_would_mix_are_refused(net):
    x = torch.ones(2, 6, 4)
    with pytest.raises(BadValue, match="evaluation mode"):
        jvp(net, (x,), (x,))
    assert torch.allclose(jvp(net.eval(), (x,), (x,))[1], x / (1 + 1e-5) ** 0.5)


def test_two_reverse_passes_where_forward_mode_has_no_rule():
    x, d = torch.tensor([1.0, 2.0], dtype=torch.float64), torch.tensor([1.0, 0.5], dtype=torch.float64)
    weight = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    value, slope = jvp(lambda x: weight * Cubed.apply(x, False), (x,), (d,))
    assert value.tolist() == [2.0, 16.0] and slope.tolist() == [6.0, 12.0]
    assert torch.autograd.grad(slope.sum(), weight)[0].item() == 9.0
    with torch.no_grad():
        assert not jvp(lambda x: weight * Cubed.apply(x, False), (x,), (d,))[1].requires_grad


def test_checkpointed_nets():
    net, at, along = point("attention")
    exact = jvp(net, at, along)[1]
    found = jvp(lambda x, t: checkpoint(net, x, t, use_reentrant=False), at, along)[1]
    assert torch.allclose(found, exact, rtol=1e-9)


def test_quotient_where_nothing_else_works():
    x, d = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.5])
    value, slope = jvp(lambda x: Cubed.apply(x, True), (x,), (d,))
    assert value.tolist() == [1.0, 8.0]
    assert torch.allclose(slope, torch.tensor([3.0, 6.0]), rtol=1e-2)


def test_an_error_of_the_net_is_raised_as_it_is():
    with pytest.raises(RuntimeError, match="size of tensor a"):
        jvp(lambda x: x + torch.zeros(3), (torch.zeros(2),), (torch.ones(2),))


def test_inputs_that_the_net_does_not_read():
    two = (torch.ones(2), torch.ones(2))
    for way in (jvp, double_vjp):
        assert way(lambda x, t: x.square(), two, (torch.ones(2), torch.full((2,), 9.0)))[1].tolist() == [2.0, 2.0]


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_the_step_follows_the_net(scale):
    """A level that is multiplied by 1000 needs a step far smaller; one default would be wrong by its whole size."""
    net, (x, t), (dx, dt) = point("attention", torch.float32)
    waves = torch.linspace(0.5, 1.0, 48).view(3, 4, 4)

    def fn(x: Tensor, t: Tensor) -> Tensor:
        return net(x, t) + torch.sin(scale * t[:, None, None, None] * waves)

    step, error = checked_step(fn, (x, t), (dx, dt))
    true = jvp(fn, (x, t), (dx, dt))[1]

    @torch.no_grad()
    def off(h: float) -> float:
        return float((difference(fn, (x, t), (dx, dt), h)[1] - true).norm() / true.norm())

    assert error < 0.02 and off(step) == pytest.approx(error, rel=0.05)
    assert (step >= 1e-4) if scale == 1 else (step <= 1e-4 and off(1e-2) > 0.5)
    assert checked_step(fn, (x, t), (dx, dt), by=reverse_agreement)[0] == pytest.approx(step, rel=40)


def test_no_step_for_a_net_in_coarse_numbers():
    def coarse(x: Tensor) -> Tensor:
        return x + 1000 * ((x * 1e4).round() / 1e4 - x).detach() + torch.sin(1e6 * x)

    with pytest.raises(BadValue, match="no step of a difference quotient comes within"):
        checked_step(coarse, (torch.linspace(0, 1, 8),), (torch.ones(8),))
