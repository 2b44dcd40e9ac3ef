from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn

from limbeck.adapters.modules import Plain, from_factory
from limbeck.errors import BadValue, Mismatch, UnknownName


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Sequential(nn.Linear(6, 5), nn.Tanh()), nn.Linear(5, 3))


def hooks(module: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


def test_answers_are_what_the_module_computes() -> None:
    raw, x = net(), torch.randn(7, 4)
    got = Plain(raw)({"x": x}, frozenset({"logits", "features", "tap:0", "tap:2.0"}))
    assert set(got) == {"logits", "features", "tap:0", "tap:2.0"}
    torch.testing.assert_close(got["logits"], raw(x))
    torch.testing.assert_close(got["features"], raw[:3](x))
    torch.testing.assert_close(got["tap:0"], raw[0](x))
    torch.testing.assert_close(got["tap:2.0"], raw[2][0](raw[:2](x)))
    # the head may be another module than the last linear layer
    torch.testing.assert_close(Plain(raw, head="2")({"x": x}, frozenset({"features"}))["features"], raw[:2](x))


def test_gradients_flow_through_taps_and_hooks_are_removed() -> None:
    plain = Plain(net())
    plain({"x": torch.randn(2, 4)}, frozenset({"tap:0"}))["tap:0"].sum().backward()
    assert plain.net[0].weight.grad is not None and plain.net[3].weight.grad is None
    assert hooks(plain) == 0


def test_hooks_are_removed_when_the_module_fails() -> None:
    plain = Plain(net())
    with pytest.raises(RuntimeError):
        plain({"x": torch.randn(2, 5)}, frozenset({"tap:2", "features"}))
    with pytest.raises(UnknownName):
        plain({"x": torch.randn(2, 4)}, frozenset({"tap:2", "tap:9"}))
    assert hooks(plain) == 0


def test_two_threads_do_not_see_each_others_answers() -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.barrier = threading.Barrier(2)

        def forward(self, x: Tensor) -> Tensor:
            self.barrier.wait(5)  # both forwards are under way, both sets of hooks stand
            return x

    plain, got = Plain(nn.Sequential(Gate(), nn.Identity(), nn.Linear(1, 1))), {}

    def ask(value: float) -> None:
        got[value] = plain({"x": torch.full((1, 1), value)}, frozenset({"tap:1"}))["tap:1"].item()

    threads = [threading.Thread(target=ask, args=(float(v),)) for v in (1, 2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert got == {1.0: 1.0, 2.0: 2.0}


def test_several_columns_are_passed_in_order() -> None:
    class Two(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a - b

    out = Plain(Two(), columns=("q", "p"))({"p": torch.ones(2, 1), "q": torch.zeros(2, 1)}, frozenset({"logits"}))
    assert out["logits"].tolist() == [[-1.0], [-1.0]]


@pytest.mark.parametrize(
    ("want", "error", "says"),
    [
        ("tap:2.00", UnknownName, "did you mean '2.0'"),
        ("tap:", UnknownName, "unknown module ''"),
        ("feature", UnknownName, "did you mean 'features'"),
    ],
)
def test_unknown_wants_say_what_is_possible(want: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        Plain(net())({"x": torch.zeros(1, 4)}, frozenset({want}))


def test_what_cannot_be_answered_is_refused() -> None:
    with pytest.raises(UnknownName, match="unknown module 'heed'"):
        Plain(net(), head="heed")
    with pytest.raises(Mismatch, match="no linear layer"):
        Plain(nn.ReLU())({"x": torch.zeros(1, 4)}, frozenset({"features"}))
    with pytest.raises(Mismatch, match="must return one tensor, it returned tuple"):
        Plain(nn.LSTM(4, 2))({"x": torch.zeros(1, 4)}, frozenset({"logits"}))
    idle = nn.Sequential(nn.Linear(4, 2))
    idle[0].register_module("unused", nn.ReLU())
    with pytest.raises(Mismatch, match="did not run"):
        Plain(idle)({"x": torch.zeros(1, 4)}, frozenset({"tap:0.unused"}))


def test_factories_are_found_by_name() -> None:
    assert isinstance(from_factory("torch.nn:ReLU").net, nn.ReLU)
    with pytest.raises(UnknownName, match="did you mean 'ReLU'"):
        from_factory("torch.nn:RelU")
    for source in ("torch.nn", "no_such_package:net", "builtins:dict"):
        with pytest.raises(BadValue):
            from_factory(source)
