"""What a divergence over a large vocabulary costs: our fused sum, logits at once with autograd, and the products alone.

2,048 tokens, a vocabulary of 151,936, teacher and student of one width; forward and backward from hidden states, with
gradients by the student's hidden states and output matrix. *Products* is the floor: the four matrix products that no
exact loss can do without (logits of both, gradients by hidden states and matrix). *At once* is what one writes by hand
in PyTorch, logits of all tokens first. All compute the same number, checked in every run. Memory is the peak beyond
what was there before and beyond the gradient by the output matrix, which stands apart; seconds are those of the
processor, over all threads. TRL and Liger Kernel are measured where they can be imported, at width 512.

The peak needs /proc, so this runs on Linux only. `make bench` sets OMP_WAIT_POLICY=PASSIVE: threads that wait busily
for each other, as is the default, would count as work on a machine that others use too.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import math
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.kernels import divergence as kernels
from limbeck.kernels.divergence import Divergence
from limbeck.kernels.fused import fused_sum
from limbeck.kernels.head import TokenHead

REPEATS = 3
THREADS = 2
TOKENS, VOCABULARY = 2048, 151_936
BETAS = {"forward KL": 0.0, "reverse KL": 1.0, "JSD": 0.5}
GIB = 2**30
Work = Callable[[TokenHead, TokenHead, float], Tensor | float]


def heads(width: int, tokens: int, dtype: torch.dtype = torch.float32) -> tuple[TokenHead, TokenHead]:
    """Student and teacher whose logits have a spread of 3."""
    torch.manual_seed(0)
    made = [
        TokenHead(torch.randn(tokens, width).to(dtype), (torch.randn(VOCABULARY, width) * 3 / width**0.5).to(dtype))
        for _ in range(2)
    ]
    made[0].hidden.requires_grad_()
    made[0].weight.requires_grad_()
    return made[0], made[1]


def fused(student: TokenHead, teacher: TokenHead, beta: float) -> Tensor:
    loss = fused_sum(student, torch.ones(len(student.hidden)), Divergence(kernels.jsd_terms(beta)), teacher)
    loss.backward()
    return loss.detach()


def at_once(student: TokenHead, teacher: TokenHead, beta: float) -> Tensor:
    log_q = (student.hidden @ student.weight.mT).float().log_softmax(-1)
    with torch.no_grad():
        log_p = (teacher.hidden @ teacher.weight.mT).float().log_softmax(-1)
    if beta in (0, 1):
        a, b = (log_p, log_q) if beta == 0 else (log_q, log_p)
        loss = F.kl_div(b, a, reduction="sum", log_target=True)
    else:
        p, q = log_p.exp(), log_q.exp()
        log_m = torch.lerp(q, p, beta).log()
        loss = (beta * p * (log_p - log_m) + (1 - beta) * q * (log_q - log_m)).sum()
    loss.backward()
    return loss.detach()


def products(student: TokenHead, teacher: TokenHead, beta: float) -> float:
    with torch.no_grad():
        slope = torch.mm(student.hidden, student.weight.mT)
        torch.mm(teacher.hidden, teacher.weight.mT)
        student.hidden.grad = torch.mm(slope, student.weight)
        student.weight.grad = torch.mm(slope.mT, student.hidden)
    return math.nan


def liger(student: TokenHead, teacher: TokenHead, beta: float) -> Tensor:
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    loss = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=beta)
    label_N = torch.zeros(len(student.hidden), dtype=torch.long)
    total = loss(student.hidden, student.weight, teacher.hidden, teacher.weight, label_N) * len(label_N)
    total.backward()
    return total.detach()


def trl(student: TokenHead, teacher: TokenHead, beta: float) -> Tensor:
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    sides = (student.hidden, student.weight, None, teacher.hidden, teacher.weight, None)
    loss = ChunkedDivergenceFunction.apply(*sides, beta)[0].sum()
    loss.backward()
    return loss.detach()


OURS: dict[str, Work] = {"products": products, "at once": at_once, "fused": fused}
PEERS: dict[str, tuple[str, Work]] = {"Liger 0.8.5": ("liger_kernel", liger), "TRL 1.16.0, chunked": ("trl", trl)}


def resident(of: str) -> int:
    """Bytes of memory by a line of /proc/self/status: VmRSS now, VmHWM at most."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(of))
    return int(line.split()[1]) * 1024


def cost(work: Work, student: TokenHead, teacher: TokenHead, beta: float) -> tuple[float, float, float]:
    """Seconds of the processor, peak of memory in GiB beyond that of the gradient by the matrix, and the value."""
    student.hidden.grad = student.weight.grad = None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what earlier work freed goes back, so that it counts as new when taken again
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, start = resident("VmRSS"), time.process_time()
    value = float(work(student, teacher, beta))
    seconds = time.process_time() - start
    return seconds, (resident("VmHWM") - before - student.weight.nbytes) / GIB, value


def contenders(width: int) -> dict[str, Work]:
    """What is measured at a width, by name."""
    found = {n: work for n, (module, work) in PEERS.items() if width == 512 and importlib.util.find_spec(module)}
    return OURS | found


def rows(width: int, dtype: torch.dtype, tokens: int, repeats: int) -> list[str]:
    """The rows of the table for one width: a divergence by a contender."""
    student, teacher = heads(width, tokens, dtype)
    out = []
    for name, beta in BETAS.items():
        works = contenders(width)
        runs = [{n: cost(w, student, teacher, beta) for n, w in works.items()} for _ in range(repeats)]
        seconds, peak, value = ({n: statistics.median(r[n][i] for r in runs) for n in works} for i in range(3))
        for n in works:
            right = n == "products" or math.isclose(value[n], value["at once"], rel_tol=1e-2)
            assert right, f"{n} computes {value[n]}, not {value['at once']}"
            cells = [f"{width}, {str(dtype).split('.')[1]}", name, n, f"{seconds[n]:.1f}"]
            cells += [f"{seconds[n] / seconds[of]:.2f}" for of in ("at once", "products")]
            cells += [f"{peak[n]:.2f}", f"{peak[n] / peak['at once']:.3f}"]
            out.append(f"| {' | '.join(cells)} |")
    return out


def table(tokens: int = TOKENS, repeats: int = REPEATS) -> list[str]:
    """The rows of the table: width, divergence, contender, seconds and memory, each as they are and as ratios."""
    warnings.simplefilter("ignore")  # what peers say of themselves
    heading = ["width", "divergence", "by", "CPU s", "of at once", "of products", "peak GiB", "of at once"]
    out = [f"| {' | '.join(heading)} |", "|---" * len(heading) + "|"]
    for width, dtype in ((512, torch.float32), (1024, torch.float32), (512, torch.bfloat16)):
        out += rows(width, dtype, tokens, repeats)
    gradient = [f"{VOCABULARY * width * 4 / GIB:.2f} GiB at width {width}" for width in (512, 1024)]
    absent = [n for n, (module, _) in PEERS.items() if not importlib.util.find_spec(module)]
    notes = [f"The gradient by the output matrix takes {' and '.join(gradient)} in float32."]
    notes += [f"Not importable here, so not measured: {', '.join(absent)}."] if absent else []
    return [*out, "", *notes]
