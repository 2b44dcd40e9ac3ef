"""Kernel ridge regression, and what self-distillation makes of it, in closed form.

Legend of shapes: N rows to fit, M rows to predict, D dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["rbf", "refitted", "ridge", "shrinkage"]


def rbf(x_MD: Tensor, z_ND: Tensor, *, width: float) -> Tensor:
    """The Gaussian kernel, k(x, z) = exp(-|x - z|^2 / (2 width^2)), as a matrix (M, N).

    Example:
        >>> rbf(torch.zeros(1, 1), torch.tensor([[0.0], [2.0]]), width=1.0)
        tensor([[1.0000, 0.1353]])
    """
    return (torch.cdist(x_MD, z_ND, compute_mode="donot_use_mm_for_euclid_dist").square() / (-2 * width**2)).exp()


def ridge(k_NN: Tensor, y_N: Tensor, *, penalty: float) -> Tensor:
    """The coefficients of kernel ridge regression.

    beta = (K + penalty I)^-1 y, the minimum of 1/2 |K beta - y|^2 + penalty / 2 beta' K beta

    Args:
        k_NN: the kernel between the rows.
        y_N: the targets.
        penalty: the weight of the squared norm, above 0.

    Returns:
        (N,) coefficients; the fit at other rows is k_MN beta.

    Raises:
        RuntimeError: K + penalty I is singular.

    Example:
        >>> ridge(torch.eye(2), torch.tensor([1.0, 2.0]), penalty=1.0)
        tensor([0.5000, 1.0000])

    Source: Saunders et al., "Ridge regression learning algorithm in dual variables", ICML 1998.
    """
    return torch.linalg.solve(k_NN + penalty * torch.eye(len(k_NN), dtype=k_NN.dtype, device=k_NN.device), y_N)


def shrinkage(d_N: Tensor, *, penalty: float, weight: float, generation: int) -> Tensor:
    """The factor by which a generation of self-distillation keeps each eigen-direction of the labels.

    B_1 = A = d / (d + penalty),  B_tau = A (a + (1 - a) B_{tau-1})
        = (1 - a)^(tau-1) A^tau + a A sum_{i<tau-1} ((1 - a) A)^i,  with the limit d / (d + penalty / a)

    Args:
        d_N: the eigenvalues of the kernel, at least 0.
        penalty: lambda, above 0.
        weight: a, the weight of the labels in the targets of every generation.
        generation: tau; 1 is the plain fit.

    Returns:
        (N,) factors.

    Example:
        >>> round(float(shrinkage(torch.tensor(2.0), penalty=1.0, weight=0.5, generation=2)), 4)
        0.5556

    Source: Borup and Andersen, arXiv:2102.13088, theorem 4.1 and corollary 4.3.
    """
    kept = d_N / (d_N + penalty)
    rate = (1 - weight) * kept
    return kept * (rate ** (generation - 1) + weight * (1 - rate ** (generation - 1)) / (1 - rate))


def refitted(k_NN: Tensor, y_N: Tensor, *, penalty: float, weight: float, generation: int) -> Tensor:
    """What a generation of self-distilled kernel ridge regression predicts on the rows it was fitted to.

    yhat_tau = V B_tau V' y with K = V D V': every generation from one eigendecomposition

    Args:
        k_NN: the kernel between the rows.
        y_N: the labels.
        penalty: lambda, above 0.
        weight: a, the weight of the labels in the targets of every generation.
        generation: tau; 1 is the plain fit.

    Returns:
        (N,) predictions.

    Example:
        >>> refitted(torch.eye(2), torch.tensor([1.0, 2.0]), penalty=1.0, weight=1.0, generation=5)
        tensor([0.5000, 1.0000])

    Source: Borup and Andersen, arXiv:2102.13088, theorem 4.1.
    """
    d_N, v_NN = torch.linalg.eigh(k_NN)
    factor_N = shrinkage(d_N.clamp(min=0), penalty=penalty, weight=weight, generation=generation)
    return v_NN @ (factor_N * (v_NN.mT @ y_N))
