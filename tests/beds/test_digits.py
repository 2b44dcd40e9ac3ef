from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.kernel_ridge import KernelRidge

from limbeck.batch import Batch
from limbeck.beds import load_bed
from limbeck.beds.digits import splits
from limbeck.beds.sines import WIDTH
from limbeck.data import Table

LOGITS = frozenset({"logits"})


def images(table: Table) -> set[bytes]:
    return {x.numpy().tobytes() for x in table.columns["x"]}


def test_the_splits_are_disjoint_and_hold_every_image() -> None:
    parts = splits()
    assert sum(len(t) for t in parts.values()) == len(load_digits().target)
    # no two of scikit-learn's images are alike, so images tell rows apart
    seen = [images(t) for t in parts.values()]
    assert len(set.union(*seen)) == sum(map(len, seen)) == 1797


def test_a_seed_draws_training_rows_but_never_the_held_out_ones() -> None:
    bed, pool = load_bed("digits_few"), images(splits()["pool"])
    one, two = bed.data(1), bed.data(2)
    assert len(one["train"]) == 100 and images(one["train"]) <= pool and images(one["train"]) != images(two["train"])
    for name in ("valid", "test"):
        assert one[name].fingerprint == two[name].fingerprint == splits()[name].fingerprint
    assert one["train"].fingerprint == bed.data(1)["train"].fingerprint


def test_a_fifth_of_the_noisy_labels_is_wrong_and_none_of_the_tests() -> None:
    right = {x.numpy().tobytes(): int(y) for t in splits().values() for x, y in zip(*t.columns.values(), strict=True)}
    wrong = []
    for seed in range(10):
        data = load_bed("digits_noisy").data(seed)
        for name in ("train", "valid"):
            columns = data[name].columns
            wrong += [right[x.numpy().tobytes()] != int(y) for x, y in zip(columns["x"], columns["y"], strict=True)]
        assert data["test"].fingerprint == splits()["test"].fingerprint
    assert abs(np.mean(wrong) - 0.2) < 4 * (0.2 * 0.8 / len(wrong)) ** 0.5


def test_the_shipped_teacher_is_good_on_rows_it_never_saw() -> None:
    teacher, test = load_bed("digits").players["teacher"](0).eval(), splits()["test"].columns
    with torch.no_grad():
        right = teacher(test, LOGITS)["logits"].argmax(-1) == test["y"]
    assert right.float().mean() > 0.98


def test_students_differ_by_seed_and_leave_the_global_stream_alone() -> None:
    build, x = load_bed("digits").players["student"], {"x": torch.rand(2, 1, 8, 8)}
    torch.manual_seed(0)
    a, b, c = build(0), build(0), build(1)
    assert torch.equal(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(a(x, LOGITS)["logits"], b(x, LOGITS)["logits"])
    assert not torch.equal(a(x, LOGITS)["logits"], c(x, LOGITS)["logits"])


def test_the_kernel_machine_at_its_minimum_is_kernel_ridge_regression() -> None:
    bed, penalty = load_bed("sines"), 0.7
    data, machine = bed.data(3), bed.players["student"](3)
    train, test = (Batch(data[name].columns) for name in ("train", "test"))
    phi = machine(train, frozenset({"features"}))["features"]
    w = torch.linalg.solve(phi.mT @ phi + penalty * torch.eye(phi.shape[1], dtype=phi.dtype), phi.mT @ train.y)
    machine.weight.data.copy_(w)
    theirs = KernelRidge(alpha=penalty, kernel="rbf", gamma=1 / (2 * WIDTH**2)).fit(train.x.numpy(), train.y.numpy())
    # directions with eigenvalues below 1e-10 of the largest are left out
    ours = machine(test, LOGITS)["logits"][:, 0].detach().numpy()
    np.testing.assert_allclose(ours, theirs.predict(test.x.numpy()), atol=1e-5)
