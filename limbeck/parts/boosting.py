"""Boosted prompts: a black box that fills gaps, made into a classifier by voting over prompts and verbalisers.

A weak learner is a prompt and a word for every class: the class whose word is likeliest in the gap is its vote. All
that is ever asked of the black box are the probabilities of words in the gap, once for each prompt and row; whatever is
learned afterwards is learned from these.

    Make("ask", ask_prompts(), into="asked")        the only queries of the training
    Solve("boost", boost(), learns=("student",))    a weak learner a step, where the state is one weight a row
    Solve("choose", keep_best_prefix(), ...)        how many of them vote

The student answers "logits" (B, C) on rows with cached probabilities `probs` (B, P, V), and on fresh texts by asking
the black box. Saved, it is prompts, words and votes; it needs the same black box again to answer.

Legend of shapes: B rows, P prompts, V words of the vocabulary, C classes, M weak learners, K candidate words of a
class, J verbalisers that are tried.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn.functional import one_hot

from limbeck.batch import Batch
from limbeck.errors import BadValue, BadWeights
from limbeck.part import part
from limbeck.players import Player, Players
from limbeck.rng import Rng

__all__ = [
    "Prompted",
    "Readout",
    "Voters",
    "ask",
    "ask_prompts",
    "best_verbaliser",
    "boost",
    "fit_alone",
    "fit_logistic",
    "keep_best_learner",
    "keep_best_prefix",
    "open_voters",
    "readout",
    "reweighted",
    "samme_alpha",
    "voters",
]

State = dict[str, Any]
END = "\0"  # between prompts
REVIEWS = tuple(
    f"{{text}} {words}"
    for words in (
        "It's {mask}.", "A {mask} movie.", "A {mask} film.", "A {mask} piece of work.", "A truly {mask} film.",
        "This is {mask}.", "It was {mask}.", "A {mask} waste of time.", "It's {mask}!", "A truly {mask} movie.",
    )
)  # fmt: skip


def ask(teacher: Player, prompts: tuple[str, ...], batch: Batch) -> Tensor:
    """Ask a black box what it would put into the gap of every prompt.

    Args:
        teacher: answers "mask_probs" on a column `text` and says in `mask` how it wants the gap written.
        prompts: each with `{text}` and `{mask}`.
        batch: B rows with `text`.

    Returns:
        (B, P, V) probabilities, after P B queries.
    """
    given = []
    for prompt in prompts:
        filled = [prompt.format(text=text, mask=teacher.mask) for text in batch.text]
        given.append(teacher(batch.with_(text=filled), "mask_probs"))
    return torch.stack(given, 1)


def _texts(pool: Tensor) -> tuple[str, ...]:
    return tuple(bytes(pool.tolist()).decode().split(END))


class Prompted(nn.Module):
    """A net that answers from what a black box puts into the gaps of its prompts.

    Args:
        teacher: the black box; it is no part of this net and not saved with it.
        prompts: each with `{text}` and `{mask}`, once.

    Raises:
        BadValue: no prompts, or one without text or gap.
    """

    pool: Tensor

    def __init__(self, teacher: Player, prompts: tuple[str, ...]) -> None:
        super().__init__()
        for prompt in prompts:
            if prompt.count("{text}") != 1 or prompt.count("{mask}") != 1:
                raise BadValue(f"a prompt has {{text}} and {{mask}} once each, got {prompt!r}")
        if not prompts:
            raise BadValue("there must be a prompt: '{text} It is {mask}.'")
        self.teacher = teacher
        # as a buffer, so that what is saved tells what must be asked
        self.register_buffer("pool", torch.tensor([*END.join(prompts).encode()], dtype=torch.uint8))

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts."""
        return _texts(self.pool)

    def forward(self, batch: Batch, want: frozenset[str]) -> dict[str, Tensor]:
        """Answer "logits" (B, C) on `probs`, or on `text` with P B queries."""
        if "logits" not in want:
            return {}
        probs_BPV = batch.probs if "probs" in batch else ask(self.teacher, self.prompts, batch)
        return {"logits": self.scores(probs_BPV)}

    def scores(self, probs_BPV: Tensor) -> Tensor:
        """Score the classes (B, C) from the probabilities."""
        raise NotImplementedError


class Voters(Prompted):
    """Weak learners that vote: sum_m alpha_m kept_m [h_m(x) = c] with h_m(x) = argmax_c P(x, prompt_m, word_mc).

    Args:
        teacher: the black box.
        prompts: each with `{text}` and `{mask}`, once.
        classes: C.
        learners: M, the most that there can be.

    Attributes:
        prompt: (M,) int64, the place of each learner's prompt.
        words: (M, C) int64, its verbaliser, as places in the vocabulary.
        alpha: (M,) the weight of its vote; 0 for a learner that was never fitted.
        kept: (M,) bool, whether it votes.
    """

    prompt: Tensor
    words: Tensor
    alpha: Tensor
    kept: Tensor

    def __init__(self, teacher: Player, prompts: tuple[str, ...], classes: int, learners: int) -> None:
        super().__init__(teacher, prompts)
        self.register_buffer("prompt", torch.zeros(learners, dtype=torch.long))
        self.register_buffer("words", torch.zeros(learners, classes, dtype=torch.long))
        self.register_buffer("alpha", torch.zeros(learners))
        self.register_buffer("kept", torch.ones(learners, dtype=torch.bool))

    def ballots(self, probs_BPV: Tensor) -> Tensor:
        """The weighted vote (B, M, C) of every learner, kept or not."""
        cells_BMC = probs_BPV[:, self.prompt[:, None], self.words]
        return one_hot(cells_BMC.argmax(-1), cells_BMC.shape[-1]) * self.alpha[:, None]

    def scores(self, probs_BPV: Tensor) -> Tensor:
        """The sum of the votes (B, C)."""
        return self.ballots(probs_BPV)[:, self.kept].sum(1)


def open_voters(file: str | Path, teacher: Player) -> Voters:
    """Open voters that were saved, to answer on fresh texts.

    Args:
        file: the safetensors file of the product.
        teacher: the black box that they were made with, or one of the same vocabulary.

    Returns:
        The voters, who answer "logits" on a batch with `text`.

    Raises:
        BadWeights: the file is not of voters.

    Example:
        `open_voters("runs/a/student/model.safetensors", Player("teacher", frozen(), black_box))`
    """
    saved = load_file(file)
    if {"pool", "words"} - saved.keys():
        raise BadWeights(f"{file} holds {', '.join(sorted(saved)[:3])}, but no pool of prompts and words of voters")
    learners, classes = saved["words"].shape
    made = Voters(teacher, _texts(saved["pool"]), classes, learners)
    made.load_state_dict(saved)
    return made


class Readout(Prompted):
    """A linear classifier of all probabilities of all prompts.

    Args:
        teacher: the black box.
        prompts: each with `{text}` and `{mask}`, once.
        words: V.
        classes: C.

    Attributes:
        weight: (C, P V).
        bias: (C,).
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, teacher: Player, prompts: tuple[str, ...], words: int, classes: int) -> None:
        super().__init__(teacher, prompts)
        self.register_buffer("weight", torch.zeros(classes, len(prompts) * words))
        self.register_buffer("bias", torch.zeros(classes))

    def scores(self, probs_BPV: Tensor) -> Tensor:
        """W p + b (B, C)."""
        return probs_BPV.flatten(1) @ self.weight.T + self.bias


@part
def voters(
    players: Players, batch: Batch, *, prompts: tuple[str, ...] = REVIEWS, classes: int = 2, learners: int = 200
) -> Voters:
    """Voters who know nothing yet.

    Args:
        players: `teacher` is the black box that they will ask.
        batch: not asked.
        prompts: each with `{text}` and `{mask}`; by default those found for reviews of films.
        classes: C.
        learners: M.

    Returns:
        A state player of buffers.

    Raises:
        BadValue: no prompts, or one without text or gap.
    """
    return Voters(players.teacher, prompts, classes, learners)


@part
def readout(
    players: Players, batch: Batch, *, prompts: tuple[str, ...] = REVIEWS, words: int = 1, classes: int = 2
) -> Readout:
    """A linear classifier of all probabilities, at zero.

    Args:
        players: `teacher` is the black box that it will ask.
        batch: not asked.
        prompts: each with `{text}` and `{mask}`.
        words: V.
        classes: C.

    Returns:
        A state player of buffers.

    Raises:
        BadValue: no prompts, or one without text or gap.
    """
    return Readout(players.teacher, prompts, words, classes)


@part
def ask_prompts(players: Players, batch: Batch) -> Batch:
    """Rows with the probabilities of all words in the gap of every prompt, each asked once.

    Args:
        players: `teacher` is asked; `student` has the prompts.
        batch: B rows, columns text and y.

    Returns:
        probs (B, P, V) and y (B,).
    """
    return Batch({"probs": ask(players.teacher, players.student.prompts, batch), "y": batch.y})


# -- weak learners ----------------------------------------------------------------------------------------------------


class Learner(NamedTuple):
    """A fitted verbaliser.

    Args:
        words: (C,) int64.
        wrong: (B,) bool, the rows that it gets wrong.
        error: their weight, ().
    """

    words: Tensor
    wrong: Tensor
    error: Tensor


def best_verbaliser(probs_BV: Tensor, y_B: Tensor, weight_B: Tensor, ranks_JC: Tensor) -> Learner:
    """Find the verbaliser of least weighted error among combinations of each class's best words.

    s(v, c) = sum_i w_i P(v | x_i) (2 [y_i = c] - 1);  a word is a candidate of the class where it scores best

    Args:
        probs_BV: what the black box puts into the gap.
        y_B: the classes.
        weight_B: the weights of the rows, of sum 1.
        ranks_JC: the combinations: of each class, which of its candidates, the best being 0.

    Returns:
        The first of least error. Of two classes, the exchanged words are tried too.
    """
    classes = ranks_JC.shape[1]
    sign_BC = 2.0 * one_hot(y_B, classes) - 1
    score_CV = (weight_B[:, None] * sign_BC).T @ probs_BV
    own_CV = one_hot(score_CV.argmax(0), classes).T.bool()
    # where a class has too few words of its own, the best of the others fill up
    ranked_CK = torch.where(own_CV, score_CV, score_CV - 1e4).topk(int(ranks_JC.max()) + 1, dim=-1).indices
    words_JC = ranked_CK[torch.arange(classes), ranks_JC]
    if classes == 2:
        words_JC = torch.cat((words_JC, words_JC.flip(1)))
    wrong_BJ = probs_BV[:, words_JC].argmax(-1) != y_B[:, None]
    error_J = weight_B @ wrong_BJ.to(weight_B.dtype)
    best = int(error_J.argmin())
    return Learner(words_JC[best], wrong_BJ[:, best], error_J[best])


def _combinations(rng: Rng, top: int, classes: int, tries: int) -> Tensor:
    """Combinations (J, C) of ranks below `top`: all of them in random order, or so many draws where there are more."""
    if top**classes > tries:
        return Rng(rng.key, torch.arange(tries, device=rng.rows.device)).integers("ranks", top, classes)
    rows_J = torch.arange(top**classes, device=rng.rows.device)
    digits = [rows_J // top**c % top for c in range(classes)]
    return torch.stack(digits, 1)[Rng(rng.key, rows_J).uniform("order").argsort()]


def samme_alpha(error: Tensor, classes: int, rows: int) -> Tensor:
    """The weight of a learner's vote, in the form of AdaBoost for several classes.

    alpha = ln((1 - e) / e) + ln(C - 1), where an error below half a row counts as half a row

    Args:
        error: e, ().
        classes: C.
        rows: B.

    Returns:
        alpha, (); positive where the learner beats chance, e < 1 - 1 / C.

    Example:
        >>> round(float(samme_alpha(torch.tensor(0.25), 2, 100)), 4), round(math.log(3), 4)
        (1.0986, 1.0986)

    Source: Zhu et al., "Multi-class AdaBoost", Statistics and Its Interface 2 (2009), algorithm 2.
    """
    e = error.clamp(min=0.5 / rows)
    return ((1 - e) / e).log() + math.log(classes - 1)


def reweighted(weight_B: Tensor, wrong_B: Tensor, alpha: Tensor) -> Tensor:
    """Give the rows that were wrong more weight: w_i exp(alpha [wrong_i]), made to sum to 1.

    Example:
        >>> reweighted(torch.full((4,), 0.25), torch.tensor([True, False, False, False]), torch.tensor(3.0).log())
        tensor([0.5000, 0.1667, 0.1667, 0.1667])
    """
    raised_B = weight_B * (alpha * wrong_B).exp()
    return raised_B / raised_B.sum()


def _seat(
    student: Player, batch: Batch, weight_B: Tensor, prompt: int, *, top: int, tries: int, lr: float
) -> tuple[Learner, Tensor]:
    """Fit the weak learner of this step and give it its vote: none if it does not beat chance."""
    (learners, classes), at = student.words.shape, batch.at.step
    if at >= learners or int(batch.y.max()) >= classes:
        raise BadValue(
            f"the student has room for {learners} learners of {classes} classes; "
            f"this is step {at}, and the largest class is {int(batch.y.max())}"
        )
    ranks_JC = _combinations(batch.rng, min(top, batch.probs.shape[2]), classes, tries)
    learner = best_verbaliser(batch.probs[:, prompt], batch.y, weight_B, ranks_JC)
    useful = learner.error < 1 - 1 / classes
    alpha = lr * useful * samme_alpha(learner.error, classes, batch.size)
    student.prompt[at], student.words[at], student.alpha[at] = prompt, learner.words, alpha
    return learner, alpha


def _equal(batch: Batch) -> Tensor:
    return torch.full((batch.size,), 1 / batch.size, dtype=batch.probs.dtype, device=batch.device)


# -- steps ------------------------------------------------------------------------------------------------------------


@part
def boost(
    players: Players, batch: Batch, state: State, *, top: int = 50, tries: int = 20_000, lr: float = 1.0
) -> tuple[State, dict[str, Any]]:
    """One round of boosting: a prompt at random, its best verbaliser, its vote, new weights of the rows.

    e = sum_i w_i [h(x_i) != y_i];  alpha = lr (ln((1 - e) / e) + ln(C - 1));  w_i <- w_i exp(alpha [h(x_i) != y_i]) / Z

    Args:
        players: `student`, the voters.
        batch: all rows, with probs and y.
        state: `weight` (B,); equal at first.
        top: K.
        tries: the most verbalisers that are tried.
        lr: a factor of alpha.

    Returns:
        The new weights; the error, the vote and the place of the prompt.

    Raises:
        BadValue: more steps than the student has room for, or a class that it does not have.

    Source: Hou et al., "PromptBoosting", arXiv:2212.09257, section 3 and algorithm 1.
    """
    weight_B = state.get("weight", _equal(batch))
    prompt = int(batch.rng.integers("prompt", len(players.student.prompts))[0])
    learner, alpha = _seat(players.student, batch, weight_B, prompt, top=top, tries=tries, lr=lr)
    figures = {"error": learner.error, "alpha": alpha, "prompt": prompt}
    return {"weight": reweighted(weight_B, learner.wrong, alpha)}, figures


@part
def fit_alone(
    players: Players, batch: Batch, state: State, *, top: int = 50, tries: int = 20_000, lr: float = 1.0
) -> tuple[State, dict[str, Any]]:
    """One learner of the next prompt in turn, on rows of equal weight: nothing is boosted.

    Args:
        players: `student`, the voters.
        batch: all rows, with probs and y.
        state: stays empty.
        top: K.
        tries: the most verbalisers that are tried.
        lr: a factor of alpha.

    Returns:
        The state; the error, the vote and the place of the prompt.

    Raises:
        BadValue: more steps than the student has room for, or a class that it does not have.
    """
    prompt = batch.at.step % len(players.student.prompts)
    learner, alpha = _seat(players.student, batch, _equal(batch), prompt, top=top, tries=tries, lr=lr)
    return state, {"error": learner.error, "alpha": alpha, "prompt": prompt}


@part
def keep_best_prefix(players: Players, batch: Batch, state: State) -> tuple[State, dict[str, Any]]:
    """Keep as many learners, from the first on, as are right most often together on these rows; most where tied.

    Args:
        players: `student`, the voters.
        batch: held-out rows, with probs and y.
        state: stays empty.

    Returns:
        The state; the share of right rows and the number of learners.
    """
    ballots_BMC = players.student.ballots(batch.probs)
    right_M = (ballots_BMC.cumsum(1).argmax(-1) == batch.y[:, None]).double().mean(0)
    best = len(right_M) - 1 - int(right_M.flip(0).argmax())
    players.student.kept.copy_(torch.arange(len(right_M)) <= best)
    return state, {"accuracy": right_M[best], "learners": best + 1}


@part
def keep_best_learner(players: Players, batch: Batch, state: State) -> tuple[State, dict[str, Any]]:
    """Keep the one learner that is right most often on these rows.

    Args:
        players: `student`, the voters.
        batch: held-out rows, with probs and y.
        state: stays empty.

    Returns:
        The state; the share of right rows and the place of the learner.
    """
    ballots_BMC = players.student.ballots(batch.probs)
    right_M = (ballots_BMC.argmax(-1) == batch.y[:, None]).double().mean(0)
    best = int(torch.where(players.student.alpha > 0, right_M, -1.0).argmax())
    players.student.kept.copy_(torch.arange(len(right_M)) == best)
    return state, {"accuracy": right_M[best], "learner": best}


@part
def fit_logistic(
    players: Players, batch: Batch, state: State, *, strength: float = 1.0
) -> tuple[State, dict[str, Any]]:
    """Fit a linear classifier of all probabilities at once.

    min over W, b of |W|^2 / 2 + strength sum_i -log softmax(W p_i + b)_{y_i}

    Args:
        players: `student`, a linear readout.
        batch: all rows, with probs and y.
        state: stays empty.
        strength: of the likelihood against the penalty.

    Returns:
        The state; the share of right rows.
    """
    p, y = batch.probs.flatten(1).double().cpu().numpy(), batch.y.cpu().numpy()
    found = LogisticRegression(C=strength, max_iter=2000).fit(p, y)
    w, b = torch.from_numpy(found.coef_), torch.from_numpy(found.intercept_)
    if len(w) == 1:  # of two classes only the difference is fitted
        w, b = torch.cat((-w, w)) / 2, torch.cat((-b, b)) / 2
    players.student.weight.copy_(w)
    players.student.bias.copy_(b)
    return state, {"accuracy": found.score(p, y)}
