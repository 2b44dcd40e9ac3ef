"""Pipelines of diffusers as fields: UNets and transformers that predict noise, data, v or velocity, on any known path.

A directory with `model_index.json` is read component by component; no pipeline class is run, and no Python code that
lies there. Rows are pictures in [-1, 1], or their latents where the pipeline has a VAE; classes are in column y, texts
in column `text` as the text encoder sees them. A text-conditional net counts as one of a single class: y = 0 is the
text of the row, y = 1 no text, so that guidance is the same for both.

Shapes: B rows, C channels, H by W pixels or latents, T tokens, D features.
"""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from limbeck.adapters.convention import Convention, read_scheduler
from limbeck.adapters.second_time import SecondTime
from limbeck.adapters.weights import check_weights, read_json, silent
from limbeck.errors import BadData, BadValue, BadWeights, Mismatch, unknown
from limbeck.parts.guidance import Guided
from limbeck.parts.states import like
from limbeck.rng import derive

__all__ = ["FACTS", "INDEX", "Denoiser", "Frame", "copy_of_net", "guided", "open_pipeline", "with_second_time"]

INDEX, FACTS, WEIGHTS, AHEAD = "model_index.json", "limbeck.json", "diffusion_pytorch_model", "second_time"
SLOTS = ("unet", "transformer")
KINDS = ("UNet2DModel", "UNet2DConditionModel", "DiTTransformer2DModel", "Transformer2DModel")
FIELDS = frozenset({"x0", "eps", "velocity", "score"})
TAP = "tap:"


@dataclass(frozen=True, eq=False)
class Frame:
    """What stands around the net in its pipeline, and never learns.

    Args:
        home: the directory.
        kind: the class of the pipeline, by name.
        slot: the net's component: "unet" or "transformer".
        scheduler: as it was saved.
        vae: that makes latents of pictures, if there is one.
        text: the text encoder and its tokenizer, if there are.
        facts: what `limbeck.json` says: the classes, the levels of a few-step student.
    """

    home: Path
    kind: str
    slot: str
    scheduler: Any
    vae: Any = None
    text: tuple[Any, Any] | None = None
    facts: Mapping[str, Any] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Frame:
        """Itself: copies of the net share it."""
        return self


class Denoiser(nn.Module):
    """A denoising model of diffusers, asked on the path of rectified flow.

    It answers "x0", "eps", "velocity" and "score" on columns x, t (and y, text, w where it is conditioned so);
    "features", the middle of a UNet or the last block of a transformer; "tap:<path>", the output of a module. With a
    second time it is a flow map: "velocity" is the average one from t down to the column s, or to 0 without it.

    Args:
        model: of diffusers; it stays in evaluation mode, so that nothing in it is random.
        convention: its path and head.
        frame: the pipeline around it.
        second: how it is told where a jump ends, if it is a map.
        nothing: (T, D) what the text encoder makes of no text.

    Raises:
        BadWeights: a model of more classes than its embedding has.
    """

    nothing: Tensor | None

    def __init__(
        self,
        model: nn.Module,
        convention: Convention,
        frame: Frame,
        second: SecondTime | None = None,
        nothing: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.net, self.convention, self.frame, self.second = model, convention, frame, second
        self.register_buffer("nothing", nothing, persistent=False)
        self.labels, self.classes = _classes(model, frame) if nothing is None else (0, 1)
        config: Any = model.config
        sides = config.sample_size if isinstance(config.sample_size, list | tuple) else [config.sample_size] * 2
        self.shape = (int(config.in_channels), *(int(s) for s in sides))
        model.eval()

    def train(self, mode: bool = True) -> Denoiser:
        """Learn or not; the model draws no numbers of its own (dropout, dropped labels) in either."""
        super().train(mode)
        self.net.eval()
        return self

    def forward(self, batch: Mapping[str, Any], want: frozenset[str]) -> dict[str, Any]:
        """Answer what is wanted in one forward of the model.

        Raises:
            UnknownName: another want.
            Mismatch: states of another shape than the model's, or a jump asked of a model with one time.
            BadData: a state that is not finite, or a class out of range.
        """
        x, t = batch["x"], batch["t"].to(batch["x"].dtype)
        self._check(x, batch)
        taken: dict[str, Any] = {}
        with ExitStack() as hooks:
            for name in want - FIELDS:
                hooks.enter_context(self._hook(name, taken))
            h = self.say(self.convention, batch)
        if want & FIELDS:
            x0, eps = self.convention.read(h, x, t)
            taken |= {"x0": x0, "eps": eps, "velocity": eps - x0, "score": -eps / like(t, x)}
        return {w: taken[w] for w in want}

    def say(self, convention: Convention, batch: Mapping[str, Any]) -> Tensor:
        """What the model says under a convention, as it comes.

        Args:
            convention: how it is asked.
            batch: columns x, t and what it is conditioned on.
        """
        x, t = batch["x"], batch["t"].to(batch["x"].dtype)
        given = self._conditions(batch)
        seen, told = convention.seen(x, t), convention.told(t)
        with ExitStack() as hooks:
            if self.second is not None:
                ahead = t - batch["s"].to(t.dtype) if "s" in batch else t
                hooks.enter_context(self.second.told(self.net, ahead))
            out: Tensor = self.net(seen, told, return_dict=False, **given)[0]
        return out[:, : x.shape[1]]  # some predict a variance too

    def _conditions(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """What the model is given besides state and time."""
        given: dict[str, Any] = {}
        if self.nothing is not None:
            text = batch["text"].to(self.nothing.dtype)
            none = like(batch["y"], text) == self.classes if "y" in batch else torch.zeros(1, device=text.device).bool()
            given["encoder_hidden_states"] = torch.where(none, self.nothing.expand_as(text), text)
        elif self.classes:
            given["class_labels"] = batch["y"]
        wide = getattr(self.net.config, "time_cond_proj_dim", None)  # type: ignore[union-attr]
        if wide:
            w = batch["w"] if "w" in batch else torch.ones(len(batch["x"]), device=batch["x"].device)
            given["timestep_cond"] = _waves(w.to(batch["x"].dtype) - 1, wide)
        return given

    def _check(self, x: Tensor, batch: Mapping[str, Any]) -> None:
        name = type(self.net).__name__
        if tuple(x.shape[1:]) != self.shape:
            raise Mismatch(f"{name} takes states of {_by(self.shape)}, got {_by(x.shape[1:])}")
        if "s" in batch and self.second is None:
            raise Mismatch(f"{name} has one time and cannot jump from t to s; give map:{self.frame.home} for two")
        if x.device.type != "cpu":  # elsewhere one would wait for the answer; rows are checked when they are read
            return
        if not bool(x.detach().isfinite().all()):
            raise BadData(f"a state that {name} is asked about holds NaN or infinity")
        if self.labels:
            self.check_classes(batch["y"], self.labels)

    def check_classes(self, y: Tensor, rows: int = 0) -> None:
        """Refuse classes that the model does not have.

        Args:
            y: (B,).
            rows: embeddings that may be asked for; by default one for each class.

        Raises:
            BadData: a class out of range.
        """
        odd = y[(y < 0) | (y >= (rows or self.classes))]
        if not len(odd):
            return
        if rows and int(odd[0]) == self.classes:
            raise BadData(f"{self.frame.home} has no embedding for no class (y = {self.classes}): it cannot be guided")
        last = self.classes - 1
        raise BadData(f"class {int(odd[0])} is out of range: {self.frame.home} has the classes 0 to {last}")

    def _hook(self, name: str, taken: dict[str, Any]) -> Any:
        """Hang the hook that records one answer."""
        asker, inside = threading.get_ident(), dict(self.net.named_modules())
        path = _middle(self.net) if name == "features" else name.removeprefix(TAP)
        if name != "features" and not name.startswith(TAP):
            raise unknown("answer", name, (*FIELDS, "features", TAP + "<path>"), where=type(self.net).__name__)
        if path not in inside or not path:
            raise unknown("module", path, inside.keys() - {""}, where=type(self.net).__name__)

        def keep(module: nn.Module, given: Any, out: Any) -> None:
            value = out[0] if isinstance(out, tuple) else out
            if threading.get_ident() == asker:
                # positions last, as convolutions have them
                taken[name] = value.mT if name == "features" and value.ndim == 3 else value

        return inside[path].register_forward_hook(keep)


def _by(shape: Any) -> str:
    return "x".join(str(n) for n in shape)


def _middle(model: nn.Module) -> str:
    """The module whose output is "features"."""
    blocks = getattr(model, "transformer_blocks", None)
    return f"transformer_blocks.{len(blocks) - 1}" if blocks is not None else "mid_block"


def _waves(w: Tensor, width: int) -> Tensor:
    """How latent consistency models of diffusers are told the guidance w - 1: sines and cosines of 1000 (w - 1)."""
    rates = torch.exp(-math.log(10_000) * torch.arange(width // 2, dtype=w.dtype, device=w.device) / (width // 2 - 1))
    angles = 1000 * w[:, None] * rates
    return torch.cat((angles.sin(), angles.cos()), 1)


def _classes(model: nn.Module, frame: Frame) -> tuple[int, int]:
    """Rows of the embedding of labels, and the classes among them; the row after the last class is that of none."""
    config: Any = model.config
    said = (frame.facts or {}).get("classes")
    rows = int(config.get("num_class_embeds") or 0)
    if getattr(model, "transformer_blocks", None) is not None and config.get("num_embeds_ada_norm"):
        rows = model.transformer_blocks[0].norm1.emb.class_embedder.embedding_table.num_embeddings  # type: ignore
        said = said or int(config.num_embeds_ada_norm)
    classes = int(said or rows)
    if classes > rows:
        raise BadWeights(f"{frame.home / FACTS} says {classes} classes, the model has {rows} embeddings of labels")
    return rows, classes


# -- opening ----------------------------------------------------------------------------------------------------------


def open_pipeline(home: Path, dtype: torch.dtype = torch.float32) -> Denoiser:
    """Open the denoising model of a pipeline's directory as a field.

    Args:
        home: the directory, with `model_index.json`.
        dtype: of the weights in memory.

    Returns:
        The net, in evaluation mode.

    Raises:
        BadWeights: weights that are missing, truncated, pickled or not finite, an unknown kind of model or scheduler.
    """
    index = read_json(home / INDEX)
    slot = next((s for s in SLOTS if index.get(s, (None, None))[1]), None)
    if slot is None:
        raise BadWeights(f"{home / INDEX} names neither a unet nor a transformer")
    name = index[slot][1]
    if name not in KINDS:
        raise BadWeights(f"{home / INDEX} names a {name}; possible: {', '.join(KINDS)}")
    model = _load("diffusers", name, home / slot, dtype, WEIGHTS)
    _supported(model, home / slot)
    scheduler = _scheduler(index, home)
    vae = _load("diffusers", index["vae"][1], home / "vae", dtype, WEIGHTS) if _has(index, "vae") else None
    text = _text(index, home, dtype) if name == "UNet2DConditionModel" else None
    facts = read_json(home / FACTS) if (home / FACTS).exists() else {}
    frame = Frame(home, _called(index["_class_name"]), slot, scheduler, vae, text, facts)
    nothing = None if text is None else encode_text(text, [""])[0]
    net = Denoiser(model, read_scheduler(scheduler), frame, None, nothing)
    if (home / AHEAD).exists():
        from safetensors.torch import load_file

        check_weights(home / AHEAD, "model")
        net.second = SecondTime.of(net.net)
        net.second.load_state_dict(load_file(home / AHEAD / "model.safetensors"))
    return net.eval()


class _Guided(Guided):
    """A guided pipeline, whose copies are not guided: what learns from it (a critic, a student) is the net alone."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copy of the net."""
        return copy.deepcopy(self.net, memo)


def guided(net: nn.Module, scale: str) -> Guided:
    """A conditional pipeline under guidance.

    Args:
        net: conditional on classes or texts.
        scale: as it was written; 1 is no guidance.

    Raises:
        BadValue: no number, or a net that is unconditional, or that knows no "no class".
    """
    try:
        w = float(scale)
    except ValueError:
        raise BadValue(f"the scale of guidance must be a number, got {scale!r}") from None
    if not isinstance(net, Denoiser):
        raise BadValue(f"guided: needs a pipeline of diffusers, got {type(net).__name__}")
    if not net.classes:
        raise BadValue(f"{net.frame.home} is unconditional: guidance needs classes or texts")
    if net.labels == net.classes:
        raise BadValue(
            f"{net.frame.home} has no embedding for no class, so it cannot be guided; if the last of its "
            f'{net.labels} is that, say so in {FACTS}: {{"classes": {net.labels - 1}}}'
        )
    found = _Guided(net, w)
    found.path = net.frame.home  # type: ignore[assignment]
    return found


def copy_of_net(teacher: nn.Module, sizes: Mapping[str, Any]) -> Denoiser:
    """A student with the architecture and the weights of its teacher; of a guided one, without guidance.

    Args:
        teacher: a `Denoiser`, or a guided one.
        sizes: none.

    Raises:
        BadValue: a size; pipelines are distilled into fewer steps, not into fewer layers.
    """
    if sizes:
        raise BadValue(f"from-teacher makes whole copies of pipelines; {next(iter(sizes))} is not known for them")
    plain: Any = teacher.net if isinstance(teacher, Guided) else teacher
    student: Denoiser = copy.deepcopy(plain).requires_grad_(True)
    student.path = plain.frame.home  # type: ignore[assignment]
    return student


def with_second_time(net: nn.Module, seed: int = 0) -> Denoiser:
    """Make a flow map of a net with one time; at first it answers as before at every s.

    Args:
        net: a pipeline's; changed in place.
        seed: of the starting values.

    Raises:
        BadValue: no net of a pipeline.
    """
    if not isinstance(net, Denoiser):
        raise BadValue(f"map: needs a pipeline of diffusers, got {type(net).__name__}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive("second time", seed))
        net.second = net.second or SecondTime.of(net.net)
    return net


def _supported(model: Any, place: Path) -> None:
    """Refuse models that are asked in ways that are not known here."""
    config = model.config
    more = config.get("addition_embed_type") or config.get("class_embed_type")
    if more:
        raise BadWeights(f"{place} is conditioned on {more!r} too, which is not known; possible: classes, one text")
    if (config.get("out_channels") or config.in_channels) < config.in_channels:
        raise BadWeights(
            f"{place} takes {config.in_channels} channels and answers {config.out_channels}: no plain field"
        )
    if config.sample_size is None:
        raise BadWeights(f"{place / 'config.json'} does not say its sample_size")


def _has(index: Mapping[str, Any], slot: str) -> bool:
    """Whether a pipeline has a component; optional ones are named as [null, null]."""
    return bool(index.get(slot) and index[slot][1])


def _called(name: Any) -> str:
    """The class of a pipeline; one of its own code is named with its module."""
    return str(name[-1] if isinstance(name, list) else name)


def _load(library: str, name: str, place: Path, dtype: torch.dtype, weights: str) -> Any:
    """One component, from safetensors only."""
    import importlib

    check_weights(place, weights)
    kind = getattr(importlib.import_module(library), name, None)
    if kind is None:
        raise BadWeights(f"{place}: {library} has no {name}")
    option = {"torch_dtype" if library == "diffusers" else "dtype": dtype}
    try:
        with silent():
            model = kind.from_pretrained(place, use_safetensors=True, local_files_only=True, **option)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise BadWeights(f"{place}: {str(error).strip().splitlines()[0]}") from None
    for key, weight in model.named_parameters():
        if not weight.isfinite().all():
            raise BadWeights(f"{place}: {key!r} holds NaN or infinity")
    return model.eval()


def _scheduler(index: Mapping[str, Any], home: Path) -> Any:
    import diffusers

    if not _has(index, "scheduler"):
        raise BadWeights(f"{home / INDEX} names no scheduler: what the model predicts is not known")
    read_json(home / "scheduler" / "scheduler_config.json")
    kind = getattr(diffusers, index["scheduler"][1], None)
    if kind is None:
        raise BadWeights(f"{home / INDEX}: diffusers has no scheduler {index['scheduler'][1]}")
    with silent():
        return kind.from_pretrained(home / "scheduler")


def _text(index: Mapping[str, Any], home: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    import transformers

    if not (_has(index, "text_encoder") and _has(index, "tokenizer")):
        raise BadWeights(f"{home / INDEX} names no text_encoder and tokenizer for its text-conditional UNet")
    encoder = _load("transformers", index["text_encoder"][1], home / "text_encoder", dtype, "model")
    with silent():
        tokenizer = transformers.AutoTokenizer.from_pretrained(home / "tokenizer", local_files_only=True)
    return encoder.requires_grad_(False), tokenizer


@torch.no_grad()
def encode_text(text: tuple[Any, Any], prompts: list[str]) -> Tensor:
    """Texts as the UNet sees them, (B, T, D).

    Raises:
        BadValue: a tokenizer that has no length.
    """
    encoder, tokenizer = text
    room = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
    if room > 100_000:
        raise BadValue("the tokenizer of the pipeline has no model_max_length")
    asked = tokenizer(prompts, padding="max_length", max_length=room, truncation=True, return_tensors="pt")
    answer: Tensor = encoder(asked.input_ids.to(encoder.device))[0]
    return answer
