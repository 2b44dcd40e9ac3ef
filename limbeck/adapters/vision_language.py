"""Vision-language models of the transformers library as nets: language models that read pictures in their prompts.

A processor writes a token as often as a picture has features, and the model puts the features in the place of these
tokens. All else is as for `CausalLM`: head, logits, next and cache are of the tokens. Known are models whose processor
makes nothing but tokens and pictures of one size, as LLaVA's.

Rows have messages, or a prompt and a completion, and the paths of their pictures in `image` or `images`. Where a
picture stands in the conversation is said by parts of messages (`{"type": "image"}`) or by the processor's own mark in
the text; rows that do not say it show their pictures before the first words of the user.

Shapes: B rows, T tokens, N pictures of a row or of all rows, F features of a picture, D features wide.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor, nn

from limbeck.adapters.causal_lm import CausalLM
from limbeck.adapters.chat import Transcript, chats
from limbeck.adapters.text import Tokens
from limbeck.batch import Column
from limbeck.errors import BadData, BadValue

__all__ = ["Pictured", "VisionLanguage", "pictured"]

MADE = {"input_ids", "attention_mask", "pixel_values"}
PLACE = "@@a-question@@"  # stands for a text where a template is tried


class VisionLanguage(CausalLM):
    """A transformers vision-language model that answers wants, on `tokens`, `pixels` and `pixels_length`.

    Args:
        lm: the model, bare or wrapped by peft.
        processor: its processor, with a tokenizer and an image processor.

    Attributes:
        reads: the columns that it reads beside `tokens`.
        processor: as given.
        mark: how the processor writes the place of a picture.
        picture: the token that stands for a feature.
        features: how many features a picture has, F.

    Raises:
        BadValue: what `CausalLM` raises; or a processor that makes more than tokens and pictures of one size.
    """

    reads = ("pixels", "pixels_length")

    def __init__(self, lm: nn.Module, processor: Any) -> None:
        tokenizer = processor.tokenizer
        tokenizer.chat_template = getattr(processor, "chat_template", None) or tokenizer.chat_template
        super().__init__(lm, tokenizer)
        self.processor, self.mark, self.picture = processor, processor.image_token, int(processor.image_token_id)
        made = processor(text=self.mark, images=[Image.new("RGB", (8, 8))], return_tensors="pt")
        self.features = int((made["input_ids"] == self.picture).sum())
        if more := made.keys() - MADE:
            raise BadValue(
                f"{type(processor).__name__} makes {', '.join(sorted(more))} besides tokens and pictures; known are "
                "models whose pictures are pixel_values of one size, as LLaVA's"
            )
        self.shape = made["pixel_values"].shape[1:]

    def seen(self, images: Sequence[Any]) -> Tensor:
        """Pictures as the model expects them, (N, C, height, width)."""
        if not images:
            return torch.zeros(0, *self.shape)
        pixels: Tensor = self.processor.image_processor(images=[*images], return_tensors="pt")["pixel_values"]
        return pixels

    def _read(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The embeddings of the tokens, features in the first places that are marked for them."""
        bare, tokens_BT = self._bare(), batch["tokens"]
        embedded_BTD: Tensor = bare.get_input_embeddings()(tokens_BT)
        if batch.get("cache") is None:
            at_BT, features_ND = self._placed(bare, batch)
            if features_ND is not None:
                embedded_BTD = embedded_BTD.masked_scatter(at_BT[..., None], features_ND.to(embedded_BTD.dtype))
        return {"inputs_embeds": embedded_BTD}

    def _placed(self, bare: Any, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
        """Where features go (B, T), and the features.

        An answer may hold the token of a picture too, if it was drawn; it stands behind all pictures, for itself.
        """
        pixels, count_B = batch["pixels"], batch["pixels_length"]
        marked_BT = batch["tokens"] == self.picture
        at_BT = marked_BT & (marked_BT.long().cumsum(1) <= self.features * count_B[:, None])
        short_B = at_BT.sum(1) != self.features * count_B
        if short_B.any():
            row = int(short_B.nonzero()[0])
            raise BadData(
                f"row {row} of the batch has {int(count_B[row])} pictures of {self.features} features each, and only "
                f"{int(at_BT[row].sum())} tokens for them: a prompt must hold all pictures of its row"
            )
        if not int(count_B.sum()):
            return at_BT, None
        inside_BN = torch.arange(pixels.shape[1], device=count_B.device) < count_B[:, None]
        given = pixels[inside_BN].to(next(bare.parameters()).dtype)
        features_ND = torch.cat([*bare.get_image_features(pixel_values=given, return_dict=True).pooler_output])
        if len(features_ND) != int(at_BT.sum()):
            raise BadData(
                f"the model makes {len(features_ND)} features of {len(given)} pictures, its processor writes "
                f"{self.features} tokens for each: the processor is of another model, or lacks patch_size"
            )
        return at_BT, features_ND


class Pictured:
    """A source of token rows with their pictures, which are read from their files whenever rows are taken.

    Args:
        tokens: the rows, with a column `images` of texts: the paths of each row's pictures, as JSON.
        net: whose processor turns pictures into pixels.
    """

    def __init__(self, tokens: Tokens, net: VisionLanguage) -> None:
        self.tokens, self.net = tokens, net

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return (*(name for name in self.tokens.names if name != "images"), *VisionLanguage.reads)

    def take(self, rows: Tensor) -> dict[str, Column]:
        """Return the columns of these rows: those of tokens, pixels (B, N, C, height, width), and pixels_length (B,).

        Raises:
            BadData: a file that is gone, or no picture.
        """
        columns = self.tokens.take(rows)
        pixels = [self.net.seen([_picture(path) for path in json.loads(paths)]) for paths in columns.pop("images")]
        columns["pixels"] = nn.utils.rnn.pad_sequence(pixels, batch_first=True)
        columns["pixels_length"] = torch.tensor([len(p) for p in pixels])
        return columns

    @property
    def fingerprint(self) -> str:
        """A hash of the rows and of the names of their pictures."""
        return self.tokens.fingerprint


def pictured(rows: Any, net: VisionLanguage, context: int | None = None, drop_long: bool = False) -> Pictured:
    """Conversations about pictures, as a source for vision-language models.

    Args:
        rows: records of a known format of text; those with pictures have `image`, a path, or `images`, a list of paths,
            taken from the folder of the rows' file unless they are whole.
        net: that reads them; its processor, its tokenizer and its template decide.
        context: the longest row in tokens; by default that of the tokenizer.
        drop_long: leave rows out that are too long, in place of cutting their completions.

    Returns:
        What `chats` returns, with `pixels` and `pixels_length`; tokens of pictures are never targets.

    Raises:
        BadData: what `chats` raises; a picture that cannot be read; rows with more or fewer pictures than places.
    """
    where = Path(rows.where)
    reader = Reader(net, where if where.is_dir() else where.parent)
    return Pictured(chats(rows, net.tokenizer, context, drop_long, reader=reader), net)


class Reader:
    """What `chats` needs of pictures: their places in a conversation, and room for their features in a text.

    Args:
        net: that will read them.
        folder: from which their paths are taken.

    Attributes:
        kept: `images`, the paths of the pictures of each row read so far, as JSON.
    """

    def __init__(self, net: VisionLanguage, folder: Path) -> None:
        self.mark, self.wide, self.folder = net.mark, net.mark * net.features, folder
        self.parts = bool(net.tokenizer.chat_template) and _takes_parts(net.tokenizer)
        self.kept: dict[str, list[str]] = {"images": []}

    def read(self, row: Mapping[str, Any], said: Transcript) -> Transcript:
        """Give each picture of a row its place, as the template wants it.

        Args:
            row: with `image` or `images`.
            said: the row without its pictures.

        Raises:
            BadData: a picture that cannot be read, one in an answer, or more or fewer pictures than places.
        """
        found = row.get("images") or row.get("image") or []
        paths = [str(self.folder / path) for path in ([found] if isinstance(found, str) else found)]
        for path in paths:
            _picture(path)
        self.kept["images"].append(json.dumps(paths))
        texts = [_flat(m.get("content", ""), self.mark) for m in said.messages]
        answers = [t for m, t in zip(said.messages, texts, strict=True) if m["role"] == "assistant"]
        if any(self.mark in answer for answer in (*answers, said.target or "")):
            raise BadData(f"an answer holds a picture ({self.mark}), and no player says pictures")
        prompt, places = said.prompt, sum(text.count(self.mark) for text in (*texts, said.prompt))
        asked = next((i for i, m in enumerate(said.messages) if m["role"] == "user"), None)
        if not places and paths:
            places, lead = len(paths), self.mark * len(paths) + ("" if self.parts else "\n")
            if asked is None:
                prompt = lead + prompt
            else:
                texts[asked] = lead + texts[asked]
        if places != len(paths):
            raise BadData(f"{len(paths)} pictures, and {places} places for them ({self.mark}, or parts of type image)")
        written = [_parts(text, self.mark) if self.parts else text for text in texts]
        messages = tuple({**m, "content": text} for m, text in zip(said.messages, written, strict=True))
        return replace(said, messages=messages, prompt=prompt)

    def widen(self, text: str) -> str:
        """Write the mark of a picture as often as it has features, as its processor does."""
        return text.replace(self.mark, self.wide)


def _picture(path: str) -> Image.Image:
    """A picture from a file, in colour.

    Raises:
        BadData: no such file, or no picture.
    """
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except FileNotFoundError:
        raise BadData(f"no picture {path!r}: paths of pictures are taken from the folder of the data") from None
    except (OSError, UnidentifiedImageError):
        raise BadData(f"{path!r} is no picture that can be read") from None


def _takes_parts(tokenizer: Any) -> bool:
    """Whether a chat template reads the parts of messages, or wants plain text.

    Example:
        >>> from types import SimpleNamespace
        >>> _takes_parts(SimpleNamespace(apply_chat_template=lambda messages, tokenize: str(messages[0]["content"])))
        False
    """
    asked = [{"role": "user", "content": [{"type": "text", "text": PLACE}]}]
    try:
        text = str(tokenizer.apply_chat_template(asked, tokenize=False))
    except Exception:  # templates raise what they like
        return False
    return PLACE in text and "'text'" not in text


def _flat(content: Any, mark: str) -> str:
    """The parts of a message as one text, marks in the places of pictures.

    Example:
        >>> _flat([{"type": "image"}, {"type": "text", "text": "what is it?"}], "<image>")
        '<image>what is it?'
    """
    if isinstance(content, str):
        return content
    return "".join(mark if part.get("type") == "image" else str(part.get("text", "")) for part in content)


def _parts(text: str, mark: str) -> list[dict[str, str]]:
    """A text with marks as the parts of a message.

    Example:
        >>> _parts("<image>what is it?", "<image>")
        [{'type': 'image'}, {'type': 'text', 'text': 'what is it?'}]
    """
    made: list[dict[str, str]] = []
    for i, piece in enumerate(text.split(mark)):
        made += [{"type": "image"}] if i else []
        made += [{"type": "text", "text": piece}] if piece else []
    return made
