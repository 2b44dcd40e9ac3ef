"""Products on disk, in the format of their ecosystem: what is saved opens there without limbeck."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save_model
from torch import nn

from limbeck.adapters.modules import Plain
from limbeck.adapters.sentence import Sentence, write_modules
from limbeck.adapters.weights import silent, wrapped

__all__ = ["save_player"]

KEPT = ("preprocessor_config.json", "processor_config.json", "config_sentence_transformers.json", "LICENSE*", "NOTICE*")


def save_player(net: nn.Module, directory: Path, original: Path | None = None) -> Path:
    """Save a net as its ecosystem would: all of the directory or none of it appears.

    Transformers nets become `save_pretrained` directories with their tokenizer, sentence embedders the layout of
    sentence-transformers, LoRA students a merged model with the adapter alone in `adapter/` (where the weights have
    few bits, the adapter only), other modules a `model.safetensors` of their state.

    Args:
        net: the player's net.
        directory: where to; what was there is replaced.
        original: the directory from which licences and preprocessor settings are taken along; by default `net.path`.

    Returns:
        The directory.
    """
    source: Any = original or getattr(net, "path", None)
    with _whole(Path(directory)) as place, silent():
        if wrapped(net) is None:
            save_model(net.net if isinstance(net, Plain) else net, str(place / "model.safetensors"))
        else:
            _save_pretrained(net, place)
        for pattern in KEPT if source is not None else ():
            for file in Path(source).glob(pattern):
                shutil.copyfile(file, place / file.name)
    return Path(directory)


def _save_pretrained(net: nn.Module, place: Path) -> None:
    model = wrapped(net)
    if hasattr(model, "merge_and_unload") and not getattr(net, "bits", 0):
        model.save_pretrained(place / "adapter")
        # Merging changes the weights for good, and the run may go on with them.
        model = copy.deepcopy(model).merge_and_unload()
    model.save_pretrained(place)
    if (writer := getattr(net, "processor", None) or net.tokenizer) is not None:
        writer.save_pretrained(place)  # type: ignore[operator, union-attr]
    if isinstance(net, Sentence):
        write_modules(net, place)


@contextmanager
def _whole(directory: Path) -> Iterator[Path]:
    """A folder that takes the place of `directory` once it is complete."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        new = place / "new"
        new.mkdir()
        yield new
        if directory.exists():
            os.replace(directory, place / "old")
        os.replace(new, directory)
    finally:
        shutil.rmtree(place, ignore_errors=True)
