"""What `--teacher`, `--student` and `--player` accept, and which rows the player that they name reads.

./model                      a directory of transformers, sentence-transformers, peft or a pipeline of diffusers
owner/name                   a name of the hub, downloaded now
http://host:8000/v1#name     a model behind a server that speaks the protocol of OpenAI; https too
http://host/v1#name?top=20   the same, of a server that lists log-probabilities (see `adapters.listing`)
package.module:factory       a function or class without required arguments
NAME or bed:NAME             the player of that role in a bed
lora:./model                 any of these with low-rank weights that learn; `lora:rank=8:./model` sets their rank
load:bits=4:./model          a directory or hub name in fewer bits, another dtype or over devices (see `adapters.light`)
from-teacher:layers=6,width=0.5   a smaller copy of the teacher; of a BERT encoder also `embedding=64`
from-teacher                 a copy of the teacher, of a pipeline of diffusers too
guided:scale=5:./pipeline    a conditional pipeline under guidance, as a teacher
map:./pipeline               a pipeline that is told a second time, where a jump ends; `map:from-teacher` too
cache:DIR, cache:DIR:./big   a teacher's sparse targets from a cache, filled by the teacher (see `adapters.recalled`)
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from limbeck.adapters import chat, text
from limbeck.adapters.causal_lm import CausalLM
from limbeck.adapters.consistent import checked
from limbeck.adapters.data import Images, Records
from limbeck.adapters.encoder import Encoder
from limbeck.adapters.light import lightly, parse_light
from limbeck.adapters.listing import open_server
from limbeck.adapters.lora import open_adapter, with_lora
from limbeck.adapters.low_rank import with_changes
from limbeck.adapters.modules import from_factory
from limbeck.adapters.pictures import pictures
from limbeck.adapters.pipeline import INDEX, Denoiser, copy_of_net, guided, open_pipeline, with_second_time
from limbeck.adapters.recalled import behind, open_recalled
from limbeck.adapters.sentence import Sentence, read_modules
from limbeck.adapters.seq2seq import Seq2Seq
from limbeck.adapters.surgery import parse_sizes, shrink
from limbeck.adapters.vision_language import VisionLanguage, pictured
from limbeck.adapters.weights import load_weights, read_json, silent
from limbeck.beds import beds, load_bed
from limbeck.data import Source
from limbeck.errors import BadData, BadValue, BadWeights, unknown
from limbeck.parts.guidance import Guided

__all__ = ["open_directory", "open_player", "read_for"]

FORMS = (
    "a model directory, owner/name of the hub, http://HOST/v1#MODEL, package.module:factory, a bed, "
    "from-teacher:layers=6, lora:SOURCE, load:bits=4:SOURCE, cache:DIR, guided:scale=5:SOURCE, map:SOURCE"
)
FACTORY = re.compile(r"[A-Za-z_]\w*(\.\w+)*:[A-Za-z_]\w*")
LORA = re.compile(r"lora:(?:rank=(\d+):)?(.+)")
GUIDED = re.compile(r"guided:scale=([-+.\de]+):(.+)")
HUB = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")


def open_player(
    spec: str | Path,
    *,
    role: str = "student",
    teacher: nn.Module | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    trust_remote_code: bool = False,
) -> nn.Module:
    """Open the net that a source names.

    Args:
        spec: the source, in one of the forms at the top of this module.
        role: the name of the player in the recipe; beds are asked for it.
        teacher: the teacher's net, for `from-teacher`.
        seed: for nets of beds.
        dtype: of the weights in memory.
        trust_remote_code: run Python code that lies in the model's directory.

    Returns:
        A net. One that comes from a directory has `path`.

    Raises:
        BadValue: a source of no known form.
        BadWeights: what `open_directory` raises.
        UnknownName: no such bed, or no such player in it.

    Example:
        >>> type(open_player("torch.nn:Identity")).__name__
        'Plain'
    """
    spec = str(spec)
    if spec.lower().startswith(("http://", "https://")):
        return open_server(spec, partial(_open_tokenizer, trust_remote_code=trust_remote_code))
    again = partial(
        open_player, role=role, teacher=teacher, seed=seed, dtype=dtype, trust_remote_code=trust_remote_code
    )
    if low := LORA.fullmatch(spec):
        base = again(low[2])
        change: Any = with_changes if isinstance(base, Denoiser) else with_lora
        return change(base, rank=int(low[1] or 16), seed=seed)
    if spec.startswith("guided:"):
        if not (said := GUIDED.fullmatch(spec)):
            raise BadValue(f"{spec!r} is not of the form guided:scale=5:SOURCE")
        return guided(again(said[2]), said[1])
    if spec.startswith("map:"):
        return with_second_time(again(spec.removeprefix("map:")), seed)
    if spec.startswith("load:"):
        place, how = parse_light(spec)
        path = Path(place) if Path(place).is_dir() else _from_hub(place)
        return lightly(open_directory(path, trust_remote_code=trust_remote_code, **{"dtype": dtype, **how}), how)
    if spec.startswith("cache:"):
        return open_recalled(spec, again)
    if Path(spec).is_dir():
        return open_directory(Path(spec), dtype, trust_remote_code)
    if spec.startswith("from-teacher"):
        if teacher is None:
            raise BadValue(f"{spec!r} needs a teacher that is a model directory")
        if getattr(teacher, "bits", 0):
            raise BadValue(f"{spec!r} needs a teacher with whole weights, not of {teacher.bits} bits")
        if isinstance(teacher, Denoiser | Guided):
            return copy_of_net(teacher, parse_sizes(spec))
        return shrink(behind(teacher), **parse_sizes(spec))
    if spec.startswith("bed:") or spec in beds():
        players = load_bed(spec.removeprefix("bed:")).players
        if role not in players:
            raise unknown("player", role, players, where=spec)
        return players[role](seed)
    if FACTORY.fullmatch(spec):
        return _from_factory(spec)
    return open_directory(_from_hub(spec), dtype, trust_remote_code)


def _from_factory(spec: str) -> nn.Module:
    """What a factory makes: a net as it is, another module as a net."""
    made = from_factory(spec)
    return made.net if _is_net(made.net) else made


def _is_net(module: nn.Module) -> bool:
    """Whether the module's forward takes a batch and a want."""
    code = getattr(type(module).forward, "__code__", None)
    return code is not None and code.co_varnames[1:3] == ("batch", "want")


def _from_hub(spec: str) -> Path:
    """Download a model of the hub by name: its safetensors and small files."""
    parent = Path(spec).parent
    siblings = [p.name for p in parent.iterdir()] if parent.is_dir() else []
    near = difflib.get_close_matches(Path(spec).name, siblings, n=1, cutoff=0.6)
    if Path(spec).is_file():
        raise BadWeights(f"{spec} is a file; give the directory of the model, with config.json and model.safetensors")
    if not HUB.fullmatch(spec) or near:
        guess = f"did you mean {str(parent / near[0])!r}?" if near else f"possible: {FORMS}"
        raise BadValue(f"no model directory {spec!r}; {guess}")
    from huggingface_hub import snapshot_download

    wanted = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
    try:
        return Path(snapshot_download(spec, allow_patterns=wanted))
    except (OSError, ValueError) as error:
        reason = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise BadWeights(f"no directory {spec!r}, and the hub gives no model of that name: {reason}") from None


def open_directory(
    directory: Path, dtype: torch.dtype = torch.float32, trust_remote_code: bool = False, **how: Any
) -> nn.Module:
    """Open a model directory as the net that fits its architecture.

    Args:
        directory: of transformers, sentence-transformers, peft or diffusers.
        dtype: of the weights in memory.
        trust_remote_code: run Python code that lies in the directory.
        how: further options of `from_pretrained`: a quantisation, a map of devices.

    Returns:
        A `CausalLM`, `VisionLanguage`, `Seq2Seq`, `Encoder`, `Sentence` or `Denoiser` net, with `path`.

    Raises:
        BadWeights: weights that are missing, truncated, pickled or of another shape, or an unknown architecture.
    """
    if (directory / "adapter_config.json").exists():
        base = read_json(directory / "adapter_config.json").get("base_model_name_or_path", "")
        if not base:
            raise BadWeights(f"{directory / 'adapter_config.json'} does not name its base_model_name_or_path")
        net = open_adapter(open_player(base, dtype=dtype, trust_remote_code=trust_remote_code), directory)
    elif (directory / INDEX).exists():
        if how:
            raise BadValue(f"{directory} is a pipeline of diffusers: of load:, only dtype is known for it")
        net = checked(open_pipeline(directory, dtype))
    else:
        net = _open_model(directory, dtype, trust_remote_code, **how)
    net.path = directory  # type: ignore[assignment]
    return net


def _open_model(directory: Path, dtype: torch.dtype, trust_remote_code: bool, **how: Any) -> nn.Module:
    modules = directory / "modules.json"
    home = directory / read_json(modules)[0]["path"] if modules.exists() else directory
    config = read_json(home / "config.json")
    if config.get("auto_map") and not trust_remote_code and config.get("model_type") not in transformers.CONFIG_MAPPING:
        raise BadWeights(f"{home} ships its own Python code; read it, then pass trust_remote_code=True to run it")
    name = (config.get("architectures") or [""])[0]
    kind, net = (transformers.AutoModel, None) if modules.exists() else _kind(name, config)
    model = load_weights(kind, home, dtype, trust_remote_code, **how)
    if net is VisionLanguage:
        return VisionLanguage(model, _open_processor(home, trust_remote_code))
    if hasattr(model.config, "image_size") and "input_ids" not in (model.main_input_name,):
        return Encoder(model, None, *_pixels(home))
    tokenizer = _open_tokenizer(home, trust_remote_code)
    return read_modules(directory, model, tokenizer) if net is None else net(model, tokenizer)


def _kind(name: str, config: dict[str, Any]) -> tuple[Any, Callable[..., nn.Module]]:
    """The class that loads an architecture, and the net that wraps it."""
    if config.get("is_encoder_decoder"):
        return transformers.AutoModelForSeq2SeqLM, Seq2Seq
    if name.endswith("ForConditionalGeneration") and "vision_config" in config:
        return transformers.AutoModelForImageTextToText, VisionLanguage
    if name.endswith(("ForCausalLM", "LMHeadModel", "LMHead")):
        return transformers.AutoModelForCausalLM, CausalLM
    heads = {
        "ForSequenceClassification": transformers.AutoModelForSequenceClassification,
        "ForImageClassification": transformers.AutoModelForImageClassification,
        "ForMaskedLM": transformers.AutoModelForMaskedLM,
        "Model": transformers.AutoModel,
    }
    found = next((kind for ending, kind in heads.items() if name.endswith(ending)), None)
    if found is None:
        possible = "ForCausalLM, LMHeadModel, ForConditionalGeneration, " + ", ".join(heads)
        raise BadWeights(f"config.json names the architecture {name or 'nothing'!r}; possible endings: {possible}")
    return found, Encoder


def _open_tokenizer(directory: Path, trust_remote_code: bool) -> Any:
    try:
        return transformers.AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadWeights(f"{directory} has no readable tokenizer: {str(error).strip().splitlines()[0]}") from None


def _open_processor(directory: Path, trust_remote_code: bool) -> Any:
    """The processor of a vision-language model, which turns text and pictures into what the model reads."""
    try:
        with silent():
            found = transformers.AutoProcessor.from_pretrained(
                directory, local_files_only=True, trust_remote_code=trust_remote_code
            )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise BadWeights(f"{directory} has no readable processor: {str(error).strip().splitlines()[0]}") from None
    if not all(hasattr(found, name) for name in ("image_processor", "tokenizer", "image_token_id")):
        raise BadWeights(f"{directory} has no processor of pictures and text, only a {type(found).__name__}")
    return found


def _pixels(directory: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of the pixels that an image model expects."""
    path = directory / "preprocessor_config.json"
    config = read_json(path) if path.exists() else {}
    return tuple(config.get("image_mean", (0.0,))), tuple(config.get("image_std", (1.0,)))


def read_for(
    net: nn.Module, rows: Any, context: int | None = None, drop_long: bool = False, requests: bool = False
) -> Source:
    """Make rows into what a net reads.

    Args:
        net: the player; its kind and its tokenizer decide.
        rows: what `open_data` gave; a source of tensors is passed on as it is.
        context: the longest row in tokens; by default that of the net.
        drop_long: leave rows out that are too long, in place of cutting them.
        requests: let language models keep what a row asks in text, for players behind a server.

    Returns:
        A source of the columns that the net reads.

    Raises:
        BadData: rows that the net cannot read.

    Example:
        `source = read_for(open_player("./student"), open_data("prompts.jsonl"))`
    """
    net = behind(net)
    if isinstance(net, Denoiser | Guided):
        return pictures(rows, net.net if isinstance(net, Guided) else net)  # type: ignore[arg-type]
    tokenizer = getattr(net, "tokenizer", None)
    if not isinstance(rows, Records) or tokenizer is None:
        if isinstance(rows, Images) and tokenizer is not None:
            raise BadData(f"{rows.records.where} holds pictures, but {type(net).__name__} reads text")
        return rows
    bounds = [b for b in (context, getattr(net, "context", None), getattr(tokenizer, "model_max_length", None)) if b]
    context = min(bounds, default=None)
    if isinstance(net, VisionLanguage):
        if requests:
            raise BadData("a model behind a server is not shown pictures: take a local teacher")
        return pictured(rows, net, context, drop_long)
    if isinstance(net, CausalLM):
        return chat.chats(rows, tokenizer, context, drop_long, requests)
    if isinstance(net, Sentence):
        return text.sentences(rows, tokenizer, context)
    if isinstance(net, Seq2Seq):
        return text.translated(rows, tokenizer, net.begin, context)
    return text.labelled(rows, tokenizer, getattr(net, "classes", None) or None, context)
