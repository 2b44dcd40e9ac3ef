"""Sharded players: every process holds a share of each weight (FSDP2) and gathers a block when it is about to run.

Gradients are added over processes as they are made, not averaged, since losses are divided by the counts of the global
batch already. Whatever leaves the loop (checkpoints, the product) is gathered whole; what enters is cut into shares.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

__all__ = ["blocks", "cut", "cut_state", "mesh_of", "rebuilt", "shard", "skeleton", "whole"]


def blocks(net: nn.Module) -> list[nn.Module]:
    """The modules of a net that are gathered one at a time: the layers of its deepest stacks.

    A transformers model says what its blocks are; elsewhere they are the members of a list or sequence that has two
    or more of one class with weights.

    Example:
        >>> [type(m).__name__ for m in blocks(nn.ModuleList([nn.Sequential(nn.Linear(2, 2)) for _ in range(2)]))]
        ['Sequential', 'Sequential']
    """
    named = {name for m in net.modules() for name in getattr(m, "_no_split_modules", None) or ()}
    if named:
        return [m for m in net.modules() if type(m).__name__ in named]
    stacks = [m for m in net.modules() if isinstance(m, nn.ModuleList | nn.Sequential)]
    found = [m for stack in stacks for m in _repeated(stack)]
    inside = {id(m) for block in found for m in block.modules() if m is not block}
    return [m for m in found if id(m) not in inside]


def _repeated(stack: nn.Module) -> list[nn.Module]:
    """The members of a stack that have weights in modules of their own, and are of a class that it has several of."""
    members = [m for m in stack.children() if any(True for _ in m.children()) and any(True for _ in m.parameters())]
    often = Counter(type(m) for m in members)
    return [m for m in members if often[type(m)] > 1]


def mesh_of(device: torch.device, processes: int) -> DeviceMesh:
    """Put all processes in one row."""
    return init_device_mesh(device.type, (processes,))


def shard(net: nn.Module, mesh: DeviceMesh, dtype: torch.dtype | None = None) -> None:
    """Cut the weights of a net into shares, in place.

    Args:
        net: the net, the same in every process, on the device of the mesh.
        mesh: the processes.
        dtype: in which weights are gathered and computed with; None leaves them as they are. Gradients are added in
            float32 or better.

    Source: Zhao et al., "PyTorch FSDP", arXiv:2304.11277.
    """
    reduce = None if dtype is None else torch.float32
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=reduce, cast_forward_inputs=False)
    for module in (*blocks(net), net):
        fully_shard(module, mesh=mesh, mp_policy=policy)
    for module in net.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no other


def whole(tree: Any, keep: bool = True) -> Any:
    """Gather every sharded tensor in a tree of dicts, lists and tensors; all processes must call it alike.

    Args:
        tree: a state, such as an optimiser's `state_dict()`.
        keep: whether this process wants the result; the others get empty tensors in their place.

    Returns:
        The tree, with what was sharded whole and on the CPU.

    Example:
        >>> whole({"w": [torch.ones(2)]})
        {'w': [tensor([1., 1.])]}
    """
    if isinstance(tree, DTensor):
        full = tree.full_tensor()
        return full.cpu() if keep else torch.empty(0)
    if isinstance(tree, Mapping):
        return {k: whole(v, keep) for k, v in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(whole(v, keep) for v in tree)
    return tree


def cut(value: Tensor, like: Tensor) -> Tensor:
    """Cut a whole tensor, the same in every process, as another is cut; itself, where that is not sharded."""
    if not isinstance(like, DTensor) or isinstance(value, DTensor) or value.shape != like.shape:
        return value
    local = value.to(device=like.device, dtype=like.dtype)
    return distribute_tensor(local, like.device_mesh, like.placements, src_data_rank=None)


def cut_state(state: Mapping[str, Any], params: list[nn.Parameter]) -> dict[str, Any]:
    """Cut the state of an optimiser as its weights are cut.

    Args:
        state: what `state_dict()` gave, gathered whole.
        params: the weights that the optimiser was made with, in that order.
    """
    moments = {i: {k: _cut_moment(v, params[i]) for k, v in held.items()} for i, held in state["state"].items()}
    return {**state, "state": moments}


def _cut_moment(value: Any, param: nn.Parameter) -> Any:
    """One entry of an optimiser's state, which keeps its own dtype."""
    if not isinstance(value, Tensor) or not isinstance(param, DTensor) or value.shape != param.shape:
        return value
    return distribute_tensor(value.to(param.device), param.device_mesh, param.placements, src_data_rank=None)


def skeleton(net: nn.Module) -> nn.Module:
    """A copy of a net without its weights: they are on the `meta` device; buffers and everything else are copied."""
    bare = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in net.parameters()}
    return copy.deepcopy(net, bare)


def rebuilt(bones: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """Give a skeleton whole weights and buffers; weights that it had under two names stay one.

    Args:
        bones: what `skeleton` made.
        weights: the state of the net by name.
    """
    made: dict[int, nn.Parameter] = {}
    for name, p in list(bones.named_parameters(remove_duplicate=False)):
        owner, _, leaf = name.rpartition(".")
        new = made.setdefault(id(p), nn.Parameter(weights[name].to(p.dtype), p.requires_grad))
        setattr(bones.get_submodule(owner), leaf, new)
    with torch.no_grad():
        for name, buffer in bones.named_buffers():
            if name in weights:
                buffer.copy_(weights[name])
    return bones
