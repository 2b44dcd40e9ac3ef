"""Beds of diffusion: what each says is known, by a second way; players, splits and the ends of the path."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.ndimage import uniform_filter
from scipy.special import logsumexp
from scipy.stats import kstest, norm
from torch import Tensor, nn

from limbeck.beds import load_bed, mog5_hurried
from limbeck.beds._mixture import Mixture
from limbeck.beds.bounces import bouncing
from limbeck.beds.digits_flawed import FLAWED, NONE, Flawed, spoilt
from limbeck.beds.edit import BACKGROUNDS, BALL, BLOCK, CAMERAS, encode, pictures
from limbeck.beds.hairpins import KINDS, LETTERS, MATE, STAY, Hairpins
from limbeck.beds.mog5 import MEANS, WEIGHTS
from limbeck.beds.vox import closed_form, truth
from limbeck.rng import Rng

ANSWERS = frozenset({"x0", "eps", "velocity"})
SHAPES: dict[str, tuple[int, ...]] = {"mog8c": (2,), "mog5": (2,), "mog8_learnt": (2,), "mog8c_learnt": (2,)}
SHAPES |= {"splat": (3, 12, 12), "edit": (4, 8, 8), "bounces": (8, 2)}
FRESH = {"mog8c": "student", "mog5": "critic", "splat": "scene", "edit": "scene", "hairpins": "student"}
FRESH |= {"bounces": "fresh", "vox": "waves"}
SHIPPED = {"mog8_learnt": "student", "mog8c_learnt": "teacher", "bounces": "critic", "splat": "teacher"}


def states(key: str, n: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(n, *SHAPES[key], generator=torch.Generator().manual_seed(seed))


def like(t: Tensor, x: Tensor) -> Tensor:
    return t.view(-1, *[1] * (x.ndim - 1))


@pytest.mark.parametrize("key", ["mog8c", "mog5", "bounces", "hairpins"])
def test_splits_are_drawn_afresh_and_the_same_for_a_seed(key: str) -> None:
    bed = load_bed(key)
    data, again, other = bed.data(0), bed.data(0), bed.data(1)
    for split, table in data.items():
        assert table.fingerprint == again[split].fingerprint != other[split].fingerprint
    if "x" in data["test"].columns:  # numbers that are never drawn twice
        rows = torch.cat([table.columns["x"].flatten(1) for table in data.values()])
        assert len(rows.unique(dim=0)) == len(rows)


@pytest.mark.parametrize(("key", "player"), FRESH.items())
def test_a_fresh_player_is_a_function_of_its_seed_alone(key: str, player: str) -> None:
    build = load_bed(key).players[player]
    one = build(3).state_dict()
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    again, other = build(3).state_dict(), build(4).state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(one[k], again[k]) for k in one) and any(not torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize(("key", "player"), SHIPPED.items())
def test_a_shipped_player_is_the_same_for_all_seeds_and_nobody_elses(key: str, player: str) -> None:
    one, other = (load_bed(key).players[player](seed) for seed in (0, 7))
    assert one is not other and one.state_dict().keys() == other.state_dict().keys()
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b) and a.data_ptr() != b.data_ptr()


@pytest.mark.parametrize("key", SHAPES)
def test_teachers_are_finite_at_both_ends_and_their_answers_agree(key: str) -> None:
    t, x = torch.tensor([0.0, 1e-6, 1e-3, 0.5, 0.999, 1.0]), states(key)
    field = load_bed(key).players["teacher"](0)
    for y in (0, field.classes) if getattr(field, "classes", 0) else (0,):
        a = field({"x": x, "t": t, "y": torch.full((6,), y)}, ANSWERS)
        assert all(bool(a[w].isfinite().all()) for w in ANSWERS)
        torch.testing.assert_close((1 - like(t, x)) * a["x0"] + like(t, x) * a["eps"], x, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(a["eps"] - a["x0"], a["velocity"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("key", ["mog8c", "splat", "edit"])
def test_no_class_is_the_field_of_all_classes(key: str) -> None:
    t, x, field = torch.linspace(0.05, 0.95, 6), states(key), load_bed(key).players["teacher"](0)
    none, free = (field({"x": x, "t": t, **y}, ANSWERS) for y in ({"y": torch.full((6,), field.classes)}, {}))
    for want in ANSWERS:
        torch.testing.assert_close(none[want], free[want])
        assert not torch.allclose(field({"x": x, "t": t, "y": torch.zeros(6).long()}, ANSWERS)[want], free[want])


def test_the_classes_of_mog8c_are_pairs_of_opposite_modes_that_make_up_the_whole() -> None:
    bed, t = load_bed("mog8c"), torch.linspace(0.1, 0.9, 30, dtype=torch.float64)
    field, x = bed.players["teacher"](0), 2 * states("mog8c", 30).double()
    parts, beliefs = [], []
    for c in range(4):
        angle = torch.tensor([c, c + 4]) * math.pi / 4
        alone = Mixture(torch.ones(2), 2 * torch.stack((angle.cos(), angle.sin()), 1), 0.15)
        parts.append(field({"x": x, "t": t, "y": torch.full((30,), c)}, frozenset({"x0"}))["x0"])
        torch.testing.assert_close(parts[-1], alone.posterior(x, 1 - t, t)[0], rtol=1e-5, atol=1e-5)
        beliefs.append(alone.log_density(x, 1 - t, t))
    share = torch.stack(beliefs, 1).softmax(1)  # Bayes: classes are equally likely
    whole = field({"x": x, "t": t}, frozenset({"x0"}))["x0"]
    torch.testing.assert_close(torch.einsum("bc,cbd->bd", share, torch.stack(parts)), whole, rtol=1e-5, atol=1e-5)
    rows = bed.data(0)["test"].columns
    assert torch.equal(rows["y"], rows["mode"] % 4)


def test_the_modes_of_mog5_are_as_long_and_as_heavy_as_stated() -> None:
    rows = load_bed("mog5").data(2)["test"].columns
    x, mode = rows["x"].double(), rows["mode"]
    for k in range(5):
        own = x[mode == k]
        assert len(own) / len(x) == pytest.approx(float(WEIGHTS[k]), abs=0.015)
        torch.testing.assert_close(own.mean(0), MEANS[k].double(), atol=0.06, rtol=0)
        across, along = torch.linalg.eigvalsh(torch.cov(own.T)).sqrt().tolist()
        assert along == pytest.approx(0.5, rel=0.06) and across == pytest.approx(0.08, rel=0.06)


def test_a_hurried_student_is_its_own_copy_for_each_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, small in (("STEPS", 2), ("ROWS", 8), ("POINTS", 8)):
        monkeypatch.setattr(mog5_hurried, name, small)
    mog5_hurried._trained.cache_clear()
    first, other = mog5_hurried.hurried(1), mog5_hurried.hurried(2)
    kept = first.out.weight.clone()
    assert not torch.equal(kept, other.out.weight) and not any(p.requires_grad for p in first.parameters())
    first.out.weight.zero_()
    assert torch.equal(mog5_hurried.hurried(1).out.weight, kept)  # what was done to a copy is not kept
    mog5_hurried._trained.cache_clear()
    assert torch.equal(mog5_hurried.hurried(1).out.weight, kept)  # and learning it again gives the same
    mog5_hurried._trained.cache_clear()


def test_a_ray_through_the_blobs_is_the_integral_of_light() -> None:
    field, blobs = closed_form(), truth()
    point, ahead = (v[:, [70, 120, 137, 200]] for v in field.rays({"camera": torch.tensor([3])}))
    seen = field({"ray": torch.cat((point, ahead), 2)[0]}, frozenset({"x0"}))["x0"].detach().numpy()
    centres, sizes, densities, colours = (
        v.double().numpy() for v in (blobs.centres, blobs.sizes, blobs.densities, blobs.colours)
    )
    for ray, start in enumerate(point[0].double().numpy()):
        way = ahead[0, ray].double().numpy()

        def dims(s: float, state: np.ndarray, start: np.ndarray = start, way: np.ndarray = way) -> np.ndarray:
            at = start + s * way
            each = densities * np.exp(-((at - centres) ** 2).sum(1) / (2 * sizes**2)) * (abs(at) <= 1).all()
            light = state[0]  # dT / ds = -sigma T, dC / ds = T sigma c
            return np.concatenate(([-light * each.sum()], light * each @ colours))

        end = solve_ivp(dims, (-math.sqrt(3), math.sqrt(3)), [1.0, 0, 0, 0], max_step=0.05, rtol=1e-6).y[1:, -1]
        np.testing.assert_allclose(seen[ray], end, atol=0.02)
    assert seen.max() > 0.2  # something was met


@pytest.mark.parametrize(("key", "std"), [("splat", 0.05), ("edit", 0.1)])
def test_fields_of_pictures_are_slopes_of_the_density_around_them(key: str, std: float) -> None:
    field, y, h = load_bed(key).players["teacher"](0), 2, 1e-5
    means = field.field.mixture.means[field.field.labels == y].numpy()
    x, way = (states(key, 5, seed).double() for seed in (1, 2))
    for level in (0.15, 0.6, 0.95):
        a, deviation = 1 - level, math.hypot((1 - level) * std, level)

        def log_p(z: np.ndarray, a: float = a, deviation: float = deviation) -> np.ndarray:
            return logsumexp(norm.logpdf(z[:, None], a * means, deviation).sum(2), 1)

        flat, along = (v.flatten(1).numpy() for v in (x, way))
        slope = (log_p(flat + h * along) - log_p(flat - h * along)) / (2 * h)
        asked = {"x": x, "t": torch.full((5,), level).double(), "y": torch.full((5,), y)}
        eps = field(asked, frozenset({"eps"}))["eps"]
        np.testing.assert_allclose(-(eps * way).flatten(1).sum(1).numpy() / level, slope, rtol=1e-4, atol=1e-4)


def test_pure_noise_tells_only_the_prompt() -> None:
    noise, one = states("edit", 2 * CAMERAS), torch.ones(2 * CAMERAS)
    x0 = load_bed("edit").players["teacher"](0)({"x": noise, "t": one, "y": torch.arange(2 * CAMERAS)}, ANSWERS)["x0"]
    known = [torch.stack([encode(pictures(k, o)[::2]) for k in range(BACKGROUNDS)]).mean(0) for o in (BALL, BLOCK)]
    torch.testing.assert_close(x0, torch.cat(known), rtol=1e-4, atol=1e-4)
    rows, y = load_bed("splat").data(0)["train"].columns, torch.arange(4)
    x0 = load_bed("splat").players["teacher"](0)({"x": states("splat", 4), "t": one[:4], "y": y}, ANSWERS)["x0"]
    for camera in range(4):
        torch.testing.assert_close(x0[camera], rows["x"][rows["y"] == camera].mean(0), rtol=1e-4, atol=1e-4)


def test_scenes_to_edit_are_seen_by_cameras_apart_and_unknown_to_the_teacher() -> None:
    data, teacher = load_bed("edit").data(0), load_bed("edit").players["teacher"](0)
    seen = [set(data[s].columns["camera"].tolist()) for s in ("train", "valid", "test")]
    assert sorted(c for s in seen for c in s) == list(range(2 * CAMERAS))  # each camera once
    x, means = data["train"].columns["x"].flatten(1).double(), teacher.field.mixture.means
    assert float(torch.cdist(x, means).min()) > 1.0
    assert not torch.equal(data["test"].columns["x"], load_bed("edit").data(1)["test"].columns["x"])


def test_spoilt_pictures_are_blurred_and_noisy() -> None:
    x = 2 * torch.rand(300, 1, 8, 8, generator=torch.Generator().manual_seed(0)) - 1
    size = (1, 1, 3, 3)
    inside = uniform_filter(np.ones(x.shape), size, mode="constant")
    blurred = uniform_filter(x.double().numpy(), size, mode="constant") / inside
    noise = (spoilt(x, Rng(("spoil",), torch.arange(300))).numpy() - blurred).ravel()
    assert kstest(noise, norm(0, 0.2).cdf).pvalue > 1e-3


class Says(nn.Module):
    """Answers with a constant and the class it was asked for."""

    def __init__(self, constant: float) -> None:
        super().__init__()
        self.constant = constant

    def forward(self, batch, want):
        return dict.fromkeys(want, (self.constant + batch["y"]).view(-1, 1, 1, 1).expand(batch["x"].shape))


def test_bad_pictures_are_asked_of_their_own_field_and_no_class_of_the_other() -> None:
    field, y = Flawed(Says(0.0), Says(100.0)), torch.tensor([0, 9, FLAWED, NONE])
    found = field({"x": torch.zeros(4, 1, 8, 8), "t": torch.ones(4), "y": y}, frozenset({"x0", "eps"}))
    for want in ("x0", "eps"):  # 10 is no class to both
        assert found[want][:, 0, 3, 3].tolist() == [0, 9, 110, 10]
    clean = field({"x": torch.zeros(2, 1, 8, 8), "t": torch.ones(2), "y": torch.tensor([4, NONE])}, frozenset({"x0"}))
    assert clean["x0"][:, 0, 0, 0].tolist() == [4, 10] and field.classes == NONE


def test_the_likelihood_of_a_hairpin_is_the_product_of_its_rules() -> None:
    law = Hairpins()
    z = torch.cat((law.sample(20, 0), torch.randint(KINDS, (20, LETTERS), generator=torch.Generator().manual_seed(1))))
    found = law({"tokens": z}, frozenset({"log_likelihood"}))["log_likelihood"]
    for row, log_p in zip(z.tolist(), found.tolist(), strict=True):
        p = 1 / KINDS
        for place in range(LETTERS // 2):
            if place:
                p *= STAY if row[place] == (row[place - 1] + 1) % KINDS else (1 - STAY) / (KINDS - 1)
            p *= MATE if row[place] + row[LETTERS - 1 - place] == KINDS - 1 else (1 - MATE) / (KINDS - 1)
        assert log_p == pytest.approx(math.log(p), rel=1e-5)


def test_the_critic_of_hairpins_does_not_start_as_the_student() -> None:
    bed = load_bed("hairpins")
    student, critic = (dict(bed.players[name](0).named_parameters()) for name in ("student", "critic"))
    assert student.keys() == critic.keys() and not any(torch.equal(student[k], critic[k]) for k in student)


def test_drawn_hairpins_cost_the_entropy_of_the_law() -> None:
    def entropy(p: float) -> float:
        return -p * math.log(p) - (1 - p) * math.log((1 - p) / (KINDS - 1))

    z = load_bed("hairpins").data(3)["test"].columns["tokens"]
    log_p = Hairpins()({"tokens": z}, frozenset({"log_likelihood"}))["log_likelihood"].double()
    due = math.log(KINDS) + LETTERS // 2 * entropy(MATE) + (LETTERS // 2 - 1) * entropy(STAY)
    assert abs(-float(log_p.mean()) - due) < 4 * float(log_p.std()) / math.sqrt(len(z))


def test_unseen_pairs_are_told_by_counting_all_they_could_be() -> None:
    # two whole pairs are seen badly, the others clearly: 256 sequences with their likelihoods
    law, places = Hairpins(), [2, 3, LETTERS - 4, LETTERS - 3]
    choices = law.sample(1, 5).repeat(KINDS**4, 1)
    choices[:, places] = torch.cartesian_prod(*[torch.arange(KINDS)] * 4)
    x = torch.nn.functional.one_hot(choices[0], KINDS).double()
    x[places] = torch.rand(4, KINDS, generator=torch.Generator().manual_seed(0)).double() + 0.1
    x, alpha = x / x.sum(1, keepdim=True), 3.5
    prior = law({"tokens": choices}, frozenset({"log_likelihood"}))["log_likelihood"].double()
    evidence = (alpha - 1) * x[places].log()[torch.arange(4), choices[:, places]].sum(1)
    share = (prior + evidence).softmax(0)
    seen = {"x": x[None], "alpha": torch.tensor([alpha], dtype=torch.float64)}
    found = law(seen, frozenset({"logits"}))["logits"][0, places].exp()
    truth = torch.einsum("n,nlk->lk", share, torch.nn.functional.one_hot(choices[:, places], KINDS).double())
    torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-6)


def test_dots_fly_evenly_and_bounce_as_a_ball_that_is_followed_step_by_step() -> None:
    clips = bouncing(4_000, 8).double().numpy()
    for frame in (0, 7):  # what is even in the box stays so
        assert kstest(clips[:, frame].ravel(), "uniform", (-1, 2)).pvalue > 1e-3
    clear = (abs(clips[:, 0]) < 0.4).all(1)  # no wall is met at once, so that the second frame tells the velocity
    at, speed = clips[clear, 0], clips[clear, 1] - clips[clear, 0]
    assert kstest(np.hypot(*speed.T), "uniform", (0.2, 0.4)).pvalue > 1e-3
    assert kstest(np.arctan2(*speed.T), "uniform", (-math.pi, 2 * math.pi)).pvalue > 1e-3
    for frame in range(1, 8):
        at = at + speed
        over = abs(at) > 1
        at, speed = np.where(over, np.sign(at) * 2 - at, at), np.where(over, -speed, speed)
        np.testing.assert_allclose(clips[clear, frame], at, atol=1e-5)
