"""The noisy sine: its student is kernel ridge regression, as scikit-learn computes it."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics.pairwise import rbf_kernel

from limbeck.beds import load_bed
from limbeck.beds.sines import NOISE, ROWS, WIDTH


def test_splits_are_a_sine_with_noise_and_a_test_set_without() -> None:
    data = load_bed("sines").data(0)
    for name, n in ROWS.items():
        x, y = data[name].columns["x"], data[name].columns["y"]  # type: ignore[attr-defined]
        assert x.shape == (n, 1) and x.abs().max() <= np.pi
        off = (y - (2 * x[:, 0]).sin()).numpy()
        if name == "test":
            assert np.abs(off).max() < 1e-12
        else:  # the deviation of n normal draws, five of its own deviations wide
            assert abs(off.std() - NOISE) < 5 * NOISE / np.sqrt(2 * n)


def test_seeds_draw_other_rows_and_the_same_seed_the_same() -> None:
    bed = load_bed("sines")
    prints = [bed.data(seed)["train"].fingerprint for seed in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]


def test_features_have_the_inner_products_of_the_kernel() -> None:
    bed = load_bed("sines")
    train = bed.data(3)["train"].take(torch.arange(30))
    net = bed.players["student"](3)
    phi = net(train, frozenset({"features"}))["features"].detach().numpy()
    x = train["x"].numpy()  # type: ignore[union-attr]
    np.testing.assert_allclose(phi @ phi.T, rbf_kernel(x, gamma=1 / (2 * WIDTH**2)), atol=1e-6)
    assert net(train, frozenset({"logits"}))["logits"].abs().max() == 0.0


def test_ridge_on_the_features_is_scikit_learns_kernel_ridge() -> None:
    bed = load_bed("sines")
    data, net, penalty = bed.data(0), bed.players["student"](0), 0.1
    train, test = (data[name].take(torch.arange(ROWS[name])) for name in ("train", "test"))
    phi = net(train, frozenset({"features"}))["features"].detach()
    eye = torch.eye(phi.shape[1], dtype=phi.dtype)
    with torch.no_grad():
        net.weight.copy_(torch.linalg.solve(phi.T @ phi + penalty * eye, phi.T @ train["y"]))  # type: ignore[union-attr]
    ours = net(test, frozenset({"logits"}))["logits"][:, 0].detach().numpy()
    ridge = KernelRidge(alpha=penalty, kernel="rbf", gamma=1 / (2 * WIDTH**2))
    theirs = ridge.fit(train["x"].numpy(), train["y"].numpy()).predict(test["x"].numpy())  # type: ignore[union-attr]
    np.testing.assert_allclose(ours, theirs, atol=1e-4)  # directions of no weight are cut off
