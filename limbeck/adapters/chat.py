"""Conversations, prompts and completions as tokens, with a mask over what the assistant says.

Formats: `messages`; `prompt` + `completion`; `conversations` with from/value (ShareGPT); `instruction`, `input`,
`output` (Alpaca); `question` + `answer`; `text`; a prompt alone. With a chat template all but `text` are rendered by
it; without one prompts and completions are joined as they are, and an empty line divides instructions and questions
from their answers.

A row is tokenised piece by piece, cut where the assistant begins and ends to speak, so that what precedes an answer is
token for token what the player sees when it is asked to generate. Templates need no generation marks: the cuts are
found by rendering prefixes of the conversation.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch

from limbeck.adapters.text import Tokens, columns_of, context_of, pad_of, warn_cut
from limbeck.errors import BadData

__all__ = ["Reader", "Transcript", "chats", "read_row", "request_of", "spans", "tokenise", "written"]

FORMATS = (
    ("messages",),
    ("conversations",),
    ("prompt", "completion"),
    ("prompt", "response"),
    ("prompt", "answer"),
    ("question", "answer"),
    ("problem", "solution"),
    ("instruction", "output"),
    ("text",),
    ("prompt",),
    ("instruction",),
    ("question",),
)
CARRIED = ("answer", "category", "source")  # columns that are kept beside the tokens: to judge and to slice by
SPEAKERS = {
    "human": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "function_response": "tool",
    "observation": "tool",
}


@dataclass(frozen=True)
class Transcript:
    """A row, whatever its format.

    Args:
        messages: the conversation, with roles, contents and tool calls; or none, for raw text.
        prompt: raw text before the target.
        target: raw text that is the target; None where there is only a prompt.
        tools: the tools that the template is told of.
    """

    messages: tuple[dict[str, Any], ...] = ()
    prompt: str = ""
    target: str | None = None
    tools: Sequence[Any] | None = field(default=None)


def read_row(row: Mapping[str, Any], template: bool) -> Transcript:
    """Read a row of any known format.

    Args:
        row: column to value.
        template: whether the tokenizer has a chat template, under which prompts become messages.

    Raises:
        BadData: a message without role or content.

    Example:
        >>> read_row({"conversations": [{"from": "human", "value": "Hi"}]}, True).messages
        ({'role': 'user', 'content': 'Hi'},)
    """
    row = _without_nulls(row)
    tools = row.get("tools")
    for name in ("messages", "conversations"):
        if name in row:
            return Transcript(tuple(_message(m) for m in row[name]), tools=tools)
    if "text" in row:
        return Transcript(target=row["text"])
    prompt, answer = _prompt_and_answer(row)
    if isinstance(prompt, list):
        return Transcript(tuple(_message(m) for m in [*prompt, *(answer or [])]), tools=tools)
    if not template:
        gap = "" if "prompt" in row else "\n\n"
        return Transcript(prompt=prompt + gap, target=answer)
    said = [{"role": "user", "content": prompt}]
    return Transcript((*said, *([{"role": "assistant", "content": answer}] if answer is not None else [])), tools=tools)


def _prompt_and_answer(row: Mapping[str, Any]) -> tuple[Any, Any]:
    """The two sides of a row that is no conversation."""
    prompt = next((row[name] for name in ("prompt", "instruction", "question", "problem") if name in row), "")
    if row.get("input"):
        prompt = f"{prompt}\n\n{row['input']}"
    return prompt, next(
        (row[name] for name in ("completion", "response", "solution", "answer", "output") if name in row), None
    )


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message with "role" and "content"."""
    if "from" in message:
        speaker = str(message["from"])
        message = {"role": SPEAKERS.get(speaker, speaker), "content": message.get("value", "")}
    if "role" not in message or not ({"content", "tool_calls"} & message.keys()):
        raise BadData(f"a message needs role and content (or from and value), got {', '.join(message) or 'nothing'}")
    return {"content": "", **message} if "tool_calls" in message else dict(message)


def _without_nulls(value: Any) -> Any:
    """The value without the nulls that Arrow writes where rows have different fields.

    Example:
        >>> _without_nulls({"role": "user", "tool_calls": None})
        {'role': 'user'}
    """
    if isinstance(value, Mapping):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    return [_without_nulls(v) for v in value] if isinstance(value, list | tuple) else value


def spans(tokenizer: Any, transcript: Transcript) -> tuple[list[tuple[str, bool]], bool]:
    """Cut a conversation into pieces of text, each said by the assistant or not.

    Args:
        tokenizer: with a chat template.
        transcript: the conversation.

    Returns:
        The pieces in order, and whether only the last answer could be marked, because the template rewrites what came
        before it (as templates do that drop earlier reasoning).

    Raises:
        BadData: the template refuses the conversation, or renders its parts differently from the whole.
    """
    messages = transcript.messages
    answers = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
    render = _Render(tokenizer, transcript.tools)
    if not answers or answers[-1] != len(messages) - 1:
        answers = [i for i in answers if i < len(messages) - 1]
        whole = render(messages, True)
    else:
        whole = render(messages, False)
    marks = [_mark(render, messages, i) for i in answers]
    rewritten = any(whole[: len(text)] != text for _, text in marks)
    if rewritten and answers and answers[-1] == len(messages) - 1:
        marks = marks[-1:]
    pieces, at = [], 0
    for start, text in marks:
        if whole[: len(text)] != text or start < at:
            raise BadData(
                "the chat template renders parts of a conversation differently from the whole; give text rows"
            )
        pieces += [(whole[at:start], False), (whole[start : len(text)], True)]
        at = len(text)
    return [piece for piece in [*pieces, (whole[at:], False)] if piece[0]], rewritten


@dataclass(frozen=True)
class _Render:
    """The chat template of a tokenizer, with its errors as ours."""

    tokenizer: Any
    tools: Sequence[Any] | None

    def __call__(self, messages: Sequence[Mapping[str, Any]], ask: bool) -> str:
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    list(messages), tools=self.tools, tokenize=False, add_generation_prompt=ask
                )
            )
        except Exception as error:  # templates raise what they like
            raise BadData(f"the chat template refuses a conversation: {str(error).splitlines()[0]}") from None


def _mark(render: _Render, messages: Sequence[Mapping[str, Any]], i: int) -> tuple[int, str]:
    """Where answer i starts, and the text up to its end."""
    text, before = render(messages[: i + 1], False), render(messages[:i], True)
    if not text.startswith(before) or before == render(messages[:i], False):
        # The template does not ask for an answer, or asks in other words: the answer starts with its content.
        content = str(messages[i]["content"]).strip()
        if content not in text:
            raise BadData("the chat template leaves out some of what the assistant says; give text rows")
        before = text[: text.rfind(content)] if content else render(messages[:i], False)
    return len(before), text


def tokenise(
    tokenizer: Any, transcript: Transcript, widen: Callable[[str], str] = str
) -> tuple[list[int], list[bool], bool]:
    """Turn a row into tokens and the mask of its targets.

    Args:
        tokenizer: of the player.
        transcript: the row.
        widen: what becomes of texts before they are tokens.

    Returns:
        Token ids, at least one before the first target; the mask; whether only the last answer could be marked.

    Raises:
        BadData: what `spans` raises.
    """
    rewritten = False
    if transcript.messages:
        pieces, rewritten = spans(tokenizer, transcript)
        texts = [(widen(text), said) for text, said in pieces]
        coded = [(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], said) for text, said in texts]
    else:
        coded = _raw(tokenizer, replace(transcript, prompt=widen(transcript.prompt)))
    tokens, mask = [], []
    for ids, said in coded:
        tokens += ids
        mask += _until_end(ids, tokenizer.eos_token_id) if said else [False] * len(ids)
    if not tokens or mask[0]:
        tokens, mask = [_first_token(tokenizer), *tokens], [False, *mask]
    return tokens, mask, rewritten


def _raw(tokenizer: Any, transcript: Transcript) -> list[tuple[list[int], bool]]:
    """Raw text: what the tokenizer puts before a prompt, the prompt, the target, the end token."""
    end = tokenizer.eos_token_id
    before = list(tokenizer(transcript.prompt, verbose=False)["input_ids"])
    if before and before[-1] == end:
        before.pop()
    if transcript.target is None:
        return [(before, False)]
    target = list(tokenizer(transcript.target, add_special_tokens=False, verbose=False)["input_ids"])
    tail = [end] if end is not None and target[-1:] != [end] else []
    if not transcript.prompt and not before and target:
        return [(target[:1], False), (target[1:] + tail, True)]
    return [(before, False), (target + tail, True)]


def _until_end(ids: Sequence[int], end: int | None) -> list[bool]:
    """Targets up to the last end token: what a template writes after it, no player generates.

    Example:
        >>> _until_end([5, 2, 7], 2)
        [True, True, False]
    """
    last = max((i for i, token in enumerate(ids) if token == end), default=len(ids) - 1)
    return [i <= last for i in range(len(ids))]


def _first_token(tokenizer: Any) -> int:
    """The token before a target that nothing precedes."""
    starts = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    return int(next(t for t in starts if t is not None))


def request_of(transcript: Transcript, prompt: int, rewritten: bool = False) -> str:
    """What a row asks, as text for a model behind a server.

    Args:
        transcript: the row.
        prompt: how many tokens the row has before its first target.
        rewritten: whether only the last answer is a target, as `tokenise` says.

    Returns:
        JSON with `messages` (and `tools`) up to the first target, or `prompt`; and `tokens`, their number.

    Example:
        >>> request_of(Transcript(prompt="the cat", target=" sat"), 2)
        '{"prompt": "the cat", "tokens": 2}'
    """
    if not transcript.messages:
        return json.dumps({"prompt": transcript.prompt, "tokens": prompt})
    answers = [i for i, message in enumerate(transcript.messages) if message["role"] == "assistant"]
    first = (answers[-1] if rewritten else answers[0]) if answers else len(transcript.messages)
    tools = {"tools": transcript.tools} if transcript.tools else {}
    return json.dumps({"messages": transcript.messages[:first], **tools, "tokens": prompt})


def written(tokenizer: Any, request: Mapping[str, Any], text: str, ended: bool) -> list[int]:
    """An answer to a request in the tokens that follow the prompt, as if it had come with the data.

    Args:
        tokenizer: of the player that will read it; its chat template writes what stands around an answer.
        request: what `request_of` returned, read.
        text: the answer, which says something.
        ended: whether the answer is complete; only then is there a token that ends it.

    Raises:
        BadData: the template refuses the conversation.
    """
    end = tokenizer.eos_token_id
    if "messages" in request:
        before, after = _around(tokenizer, request, text.strip())
        piece = before + text.strip() + (after if ended else "")
        ids = list(tokenizer(piece, add_special_tokens=False, verbose=False)["input_ids"])
        return [token for token, said in zip(ids, _until_end(ids, end), strict=True) if said]
    ids = list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    return [*ids, end] if ended and end is not None and ids[-1:] != [end] else ids


def _around(tokenizer: Any, request: Mapping[str, Any], text: str) -> tuple[str, str]:
    """What a template writes between a prompt and an answer, and after the answer."""
    render, messages = _Render(tokenizer, request.get("tools")), request["messages"]
    asked, whole = render(messages, True), render([*messages, {"role": "assistant", "content": text}], False)
    before, found, after = whole.removeprefix(asked).rpartition(text)
    if not found:  # the template leaves out some of the answer, as earlier reasoning
        return "", tokenizer.eos_token or ""
    return before if whole.startswith(asked) else "", after


class Reader(Protocol):
    """What rows hold beside their text, such as pictures."""

    kept: dict[str, list[str]]

    def read(self, row: Mapping[str, Any], said: Transcript) -> Transcript:
        """Give what a row holds its place in the conversation."""
        ...

    def widen(self, text: str) -> str:
        """Make room for it in a text."""
        ...


def chats(
    rows: Any, tokenizer: Any, context: int | None = None, drop_long: bool = False, requests: bool = False,
    reader: Reader | None = None,
) -> Tokens:  # fmt: skip
    """Conversations, prompts and completions as a source for language models.

    Args:
        rows: records of any known format.
        tokenizer: of the player.
        context: the longest row in tokens; by default that of the tokenizer.
        drop_long: leave rows out that are too long, in place of cutting their completions.
        requests: keep beside the tokens what each row asks in text, for players behind a server.
        reader: of what rows hold beside their text; what it keeps is kept beside the tokens.

    Returns:
        tokens (B, T), mask (B, T), length (B,), prompt (B,): tokens before the first target, or all of
        them where there is none; `answer`, `category` and `source` as they are, where the rows have them; `request`
        (see `request_of`), if asked for.

    Raises:
        BadData: no known format, an unreadable row, or a prompt that alone fills the context.
    """
    format = columns_of(rows, FORMATS, "language")
    context, template = context_of(tokenizer, context), bool(getattr(tokenizer, "chat_template", None))
    tokens: list[list[int]] = []
    masks: list[list[bool]] = []
    asked: list[str] = []
    rewritten = 0
    for number, row in enumerate(rows, 1):
        try:
            transcript = read_row(row, template)
            transcript = transcript if reader is None else reader.read(row, transcript)
            ids, mask, odd = tokenise(tokenizer, transcript, str if reader is None else reader.widen)
        except BadData as error:
            raise BadData(f"{rows.where}, row {number}: {error}") from None
        tokens.append(ids)
        masks.append(mask)
        rewritten += odd
        if requests:
            asked.append(request_of(transcript, mask.index(True) if True in mask else len(mask), odd))
    if rewritten:
        warnings.warn(
            f"the chat template rewrites earlier turns in {rewritten} of {len(rows)} rows: "
            "only their last answer is a target",
            stacklevel=2,
        )
    kept = {name: [str(v) for v in rows.rows[name]] for name in CARRIED if name in rows.names and name not in format}
    if requests:
        kept["request"] = asked
    kept |= {} if reader is None else reader.kept
    return _fit(rows.where, tokens, masks, context, drop_long, pad_of(tokenizer), kept)


def _fit(
    where: str,
    tokens: list[list[int]],
    masks: list[list[bool]],
    context: int,
    drop_long: bool,
    pad: int,
    texts: Mapping[str, list[str]],
) -> Tokens:
    """Bring rows into the context and collate them."""
    prompts = [mask.index(True) if True in mask else len(mask) for mask in masks]
    long = [i for i, ids in enumerate(tokens) if len(ids) > context]
    hopeless = [i for i in long if prompts[i] >= context]
    keep = [i for i in range(len(tokens)) if not drop_long or len(tokens[i]) <= context]
    if hopeless and not drop_long:
        raise BadData(
            f"{where}, row {hopeless[0] + 1}: the prompt alone has {prompts[hopeless[0]]} tokens, "
            f"the context {context} ({len(hopeless)} such rows); "
            "give a longer context, shorten the prompts, or drop_long=True"
        )
    cut = "completions cut on the right, prompts kept; drop_long=True leaves such rows out"
    warn_cut(len(long), len(tokens), context, "left out; drop_long=False cuts their completions" if drop_long else cut)
    ragged: dict[str, Sequence[Sequence[int]]] = {
        "tokens": [tokens[i][:context] for i in keep],
        "mask": [masks[i][:context] for i in keep],
    }
    kept = {name: [column[i] for i in keep] for name, column in texts.items()}
    return Tokens(ragged, {"prompt": torch.tensor([prompts[i] for i in keep])}, pad, kept)
