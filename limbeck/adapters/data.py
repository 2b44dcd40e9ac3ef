"""Rows from files: JSONL, JSON, Parquet, CSV, text, `.npz`, image folders, saved `datasets` and names of the hub.

`open_data` gives a source; `hold_out` splits any source by the content of its rows, without a seed, so that a row and
its copies always fall on the same side, in every run and on every machine.
"""

from __future__ import annotations

import codecs
import difflib
import hashlib
import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from limbeck import library
from limbeck.adapters.weights import silent
from limbeck.batch import Column
from limbeck.data import Source, Table
from limbeck.errors import BadData

__all__ = ["Images", "Records", "Split", "Subset", "hold_out", "need", "open_data"]

KINDS = {
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "text",
    ".md": "text",
}
PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff"}
PADDED = {
    "tokens": "length",
    "mask": "length",
    "source": "source_length",
    "types": "types_length",
    "pixels": "pixels_length",
}
POSSIBLE = "JSONL, JSON, Parquet, CSV, TSV, text, .npz, an image folder, a saved dataset or a name of the hub"


class Records:
    """Rows of an Arrow table, memory-mapped.

    Args:
        rows: a `datasets.Dataset`.
        where: the file or name, for messages.

    Raises:
        BadData: no rows, or a number that is NaN or infinite.

    Example:
        >>> import datasets
        >>> rows = Records(datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}))
        >>> rows.take(torch.tensor([1]))
        {'text': ['b'], 'label': tensor([1])}
    """

    def __init__(self, rows: Any, where: str = "the data") -> None:
        if len(rows) == 0:
            raise BadData(f"{where} holds no rows")
        self.rows, self.where = rows, where
        _check_finite(rows, where)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(self.rows.column_names)

    def take(self, rows: Tensor) -> dict[str, Column]:
        """Return the columns of these rows: numbers as tensors, all else as lists."""
        return {name: _column(values) for name, values in self.rows[rows.tolist()].items()}

    @property
    def fingerprint(self) -> str:
        """A hash of the contents."""
        return _fingerprint(self)


class Images:
    """Pictures as tensors in [0, 1], with the classes of their folders.

    Args:
        records: rows with the columns "image" and, where there are classes, "label".
        size: the side to which pictures are scaled; None takes them as they are.

    Raises:
        BadData: pictures of different sizes and no `size`.
    """

    def __init__(self, records: Records, size: int | None = None) -> None:
        self.records, self.size = records, size
        self.mode = "L" if records.rows[0]["image"].mode in ("1", "L") else "RGB"

    def __len__(self) -> int:
        return len(self.records)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return ("x", "y") if "label" in self.records.names else ("x",)

    def take(self, rows: Tensor) -> dict[str, Column]:
        """Return x (B, C, H, W) float32 and y (B,)."""
        columns = self.records.rows[rows.tolist()]
        pixels = [self._pixels(image) for image in columns["image"]]
        if len({p.shape for p in pixels}) > 1:
            shapes = sorted({f"{p.shape[1]}x{p.shape[0]}" for p in pixels})
            raise BadData(f"{self.records.where}: pictures of different sizes ({', '.join(shapes)}); choose a size")
        x_BHWC = torch.from_numpy(np.stack(pixels)).float().div_(255)
        x = x_BHWC.permute(0, 3, 1, 2).contiguous()
        return {"x": x, "y": torch.tensor(columns["label"])} if "label" in columns else {"x": x}

    def _pixels(self, image: Any) -> np.ndarray[Any, Any]:
        picture = image.convert(self.mode)
        if self.size is not None:
            picture = picture.resize((self.size, self.size))
        pixels = np.asarray(picture)
        return pixels if pixels.ndim == 3 else pixels[:, :, None]

    @property
    def fingerprint(self) -> str:
        """A hash of the contents."""
        return _fingerprint(self)


class Subset:
    """Some rows of a source.

    Args:
        source: the rows.
        rows: (N,) int64, which of them.

    Example:
        >>> Subset(Table({"x": torch.arange(5)}), torch.tensor([4, 2])).take(torch.tensor([0]))["x"]
        tensor([4])
    """

    def __init__(self, source: Source, rows: Tensor) -> None:
        self.source, self.rows = source, rows

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: Tensor) -> Mapping[str, Column]:
        """Return the columns of these rows."""
        return self.source.take(self.rows[rows])

    @property
    def fingerprint(self) -> str:
        """A hash of the contents."""
        return _fingerprint(self)


class Split(NamedTuple):
    """The sides of a split, and how many rows were left out because they repeat another."""

    train: Source
    held: Source
    repeated: int


def open_data(spec: str | Path, *, take: int | None = None, whole: bool = False) -> Records | Images | Table:
    """Open rows of any known kind.

    Args:
        spec: a file, a pattern (`shards/*.parquet`), a folder, a name of the library (`limbeck data add`), also with a
            file in it (`stsb/train.csv`), or a name of the hub as `name`, `name:config`,
            `name@split`; the network is used for names only.
        take: the first n rows only; names of the hub are then streamed, not downloaded.
        whole: text files as one row, to be cut into windows, in place of a row a line.

    Returns:
        A source with `names`, `take`, `fingerprint`.

    Raises:
        BadData: no such file, no rows, a broken row (with its line), an unreadable encoding, NaN.

    Example:
        `open_data("prompts.jsonl").names`
    """
    spec = str(spec)
    if not Path(spec).exists() and (first := spec.split("/")[0]) in library.names():
        spec = str(library.find(first) / spec.removeprefix(first).lstrip("/"))
    files = _files(spec)
    if not files and not Path(spec).exists():
        return _from_hub(spec, take)
    if Path(spec).is_dir() and (saved := _saved(Path(spec))) is not None:
        return Records(_first(saved, take), spec)
    if _kind(files[0]) == "npz":
        return _from_npz(files[0], take)
    if _kind(files[0]) == "images":
        return Images(Records(_first(_load("imagefolder", spec), take), spec))
    return Records(_first(_from_files(files, whole), take), spec)


def need(rows: Any, *names: str) -> None:
    """Check that columns exist.

    Raises:
        BadData: one does not, with the nearest that does.

    Example:
        >>> need(Records(__import__("datasets").Dataset.from_dict({"txt": ["a"]})), "text")
        Traceback (most recent call last):
        limbeck.errors.BadData: the data has no column 'text'; did you mean 'txt'? columns: txt
    """
    for name in names:
        if name not in rows.names:
            near = difflib.get_close_matches(name, rows.names, n=1, cutoff=0.5)
            guess = f"; did you mean {near[0]!r}?" if near else ";"
            where = getattr(rows, "where", "the data")
            raise BadData(f"{where} has no column {name!r}{guess} columns: {', '.join(rows.names)}")


def hold_out(source: Source, share: float = 0.1, by: Sequence[str] | None = None) -> Split:
    """Split rows by the hash of their content; of rows that repeat each other the first is kept.

    Strings are compared without regard to case and white space. The same row falls on the same side whatever else the
    data holds; only where a side would be empty is the row with the lowest or highest hash moved there.

    Args:
        source: the rows.
        share: the part that is held out, in (0, 1).
        by: the columns whose content decides; all by default. Give the inputs to keep questions that were answered
            twice on one side.

    Returns:
        The sides, both with at least one row.

    Raises:
        BadData: fewer than two different rows.

    Source: why repeated rows must not be held out, Lee et al., arXiv:2107.06499, section 1.

    Example:
        >>> split = hold_out(Table({"x": torch.arange(100) % 50}), 0.2)
        >>> len(split.train) + len(split.held), split.repeated
        (50, 50)
    """
    keys, repeated = [_key(row, by) for row in _each(source)], 0
    first: dict[int, list[int]] = {}
    whole_rows = set()
    for i, (key, content) in enumerate(keys):
        if content in whole_rows:
            repeated += 1
        else:
            whole_rows.add(content)
            first.setdefault(key, []).append(i)
    if len(first) < 2:
        raise BadData(f"a split needs two different rows, got {len(first)} (and {repeated} that repeat it)")
    order = sorted(first)
    n = min(max(sum(key < share * 2**64 for key in order), 1), len(order) - 1)
    sides = [torch.tensor(sorted(i for key in side for i in first[key])) for side in (order[n:], order[:n])]
    return Split(Subset(source, sides[0]), Subset(source, sides[1]), repeated)


def _each(source: Source) -> Iterator[dict[str, Any]]:
    """Rows one by one, taken in blocks."""
    for block in torch.arange(len(source)).split(256):
        columns = source.take(block)
        for i in range(len(block)):
            yield {name: column[i] for name, column in columns.items()}


def _key(row: Mapping[str, Any], by: Sequence[str] | None) -> tuple[int, bytes]:
    """The hash that decides the side, and the hash of the whole row."""
    chosen = row if by is None else {name: row[name] for name in by}
    return int.from_bytes(_hash(chosen)[:8], "big"), _hash(row)


def _hash(row: Mapping[str, Any]) -> bytes:
    return hashlib.blake2b(json.dumps(_plain(row), sort_keys=True).encode(), digest_size=16).digest()


def _plain(value: Any) -> Any:
    """A value that has one spelling in JSON; padding at the end of token rows does not count."""
    if isinstance(value, Mapping):
        lengths = {k: int(value[n]) for k, n in PADDED.items() if k in value and n in value}
        return {k: _plain(v[: lengths[k]] if k in lengths else v) for k, v in value.items() if v is not None}
    if isinstance(value, str):
        return " ".join(value.split()).casefold()
    if isinstance(value, Tensor) and value.ndim:
        return [list(value.shape), hashlib.blake2b(value.contiguous().numpy().tobytes()).hexdigest()]
    if isinstance(value, Tensor):
        return value.item()
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _fingerprint(source: Source) -> str:
    h = hashlib.blake2b(digest_size=8)
    for row in _each(source):
        h.update(_hash(row))
    return h.hexdigest()


def _column(values: list[Any]) -> Column:
    """Numbers as a tensor, all else as it is."""
    if isinstance(values[0], bool | int | float) and all(isinstance(v, bool | int | float) for v in values):
        return torch.tensor(values)
    return values


def _check_finite(rows: Any, where: str) -> None:
    """Refuse numbers that are missing, NaN or infinite."""
    import pyarrow.compute as pc
    import pyarrow.types as kind

    for name in rows.column_names:
        column = rows.data.column(name)
        if rows._indices is None and kind.is_floating(column.type):
            bad = pc.fill_null(pc.invert(pc.is_finite(column)), True)
            if pc.any(bad).as_py():
                row = pc.index(bad, True).as_py()
                raise BadData(
                    f"{where}: column {name!r} is empty, NaN or infinite in row {row + 1} of {len(rows)}; "
                    "fill it or remove the column"
                )


def _files(spec: str) -> list[Path]:
    """The files that a spec names, all of one kind."""
    path = Path(spec)
    if path.is_file():
        files = [path]
    elif path.is_dir():
        known = [p for p in path.rglob("*") if p.is_file() and _kind(p)]
        # Pictures or rows may lie beside a licence or settings: the commonest kind counts.
        common = Counter(map(_kind, known)).most_common(1)
        files = sorted(p for p in known if _kind(p) == common[0][0])
        if not files and _saved(path) is None:
            raise BadData(f"{spec} holds no file of a known kind; possible: {POSSIBLE}")
    else:
        files = sorted(path.parent.glob(path.name)) if any(c in spec for c in "*?") else []
    if files and files[0].stat().st_size == 0:
        raise BadData(f"{files[0]} is empty")
    return files


def _suffix(path: Path) -> str:
    """The suffix that says the kind, under a possible `.gz`."""
    return (Path(path.stem).suffix if path.suffix == ".gz" else path.suffix).lower()


def _kind(path: Path) -> str | None:
    """The kind of a file by its name, if it is known."""
    suffix = _suffix(path)
    return "images" if suffix in PICTURES else "npz" if suffix == ".npz" else KINDS.get(suffix)


def _saved(path: Path) -> Any:
    """The data set that `save_to_disk` wrote there, if it did; of several splits "train"."""
    import datasets

    if not any((path / name).exists() for name in ("state.json", "dataset_dict.json")):
        return None
    saved = datasets.load_from_disk(str(path))
    return saved if isinstance(saved, datasets.Dataset) else _train_of(saved)


def _train_of(splits: Mapping[str, Any]) -> Any:
    return splits["train"] if "train" in splits else next(iter(splits.values()))


def _first(rows: Any, take: int | None) -> Any:
    return rows if take is None else rows.select(range(min(take, len(rows))), keep_in_memory=True).flatten_indices()


def _load(kind: str, spec: str, **options: Any) -> Any:
    """Run a loader of `datasets` on local files, quietly."""
    import datasets

    datasets.disable_progress_bars()
    place = {"data_dir": spec} if kind == "imagefolder" else {}
    with silent():
        return datasets.load_dataset(kind, split="train", **place, **options)


def _from_files(files: Sequence[Path], whole: bool) -> Any:
    """Tabular and text files by `datasets`; what it cannot read is looked at line by line for the message."""
    kinds = {_kind(f) for f in files}
    if len(kinds) > 1 or None in kinds:
        raise BadData(f"{files[0]} and its like are not of one known kind; possible: {POSSIBLE}")
    kind = str(kinds.pop())
    options: dict[str, Any] = {"sep": "\t"} if _suffix(files[0]) == ".tsv" else {}
    if kind == "text":
        options = {"sample_by": "document" if whole else "line"}
    try:
        rows = _load(kind, "", data_files=[str(f) for f in files], **options)
    except Exception as error:
        for file in files:
            _diagnose(file, kind)
        reason = str(error.__cause__ or error).splitlines()[0]
        raise BadData(f"{files[0]} cannot be read as {kind}: {reason}") from None
    if kind == "csv":
        _check_header(files[0], rows.column_names)
    return rows.filter(lambda row: bool(row["text"].strip())) if kind == "text" and not whole else rows


def _check_header(file: Path, names: Sequence[str]) -> None:
    """Refuse a first line that holds data: some names of it are numbers, but not all."""
    numbers = [name for name in names if re.fullmatch(r"[-+]?\d*\.?\d+", name)]
    if numbers and len(numbers) < len(names):
        raise BadData(f"{file}: the first line must name the columns, but holds {numbers[0]!r}; add a header line")


def _diagnose(file: Path, kind: str) -> None:
    """Say what is wrong with a file that could not be read.

    Raises:
        BadData: always, if the reason can be found.
    """
    if kind == "parquet" or file.suffix == ".gz":
        return
    content = file.read_bytes()
    try:
        text = codecs.decode(content, "utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise BadData(f"{file}:{line}: not UTF-8 ({error.reason}); convert it, e.g. with iconv") from None
    if kind == "json" and not text.lstrip().startswith("["):
        for number, line_text in enumerate(text.splitlines(), 1):
            try:
                json.loads(line_text or "{}")
            except json.JSONDecodeError as error:
                raise BadData(f"{file}:{number}: broken JSON ({error.msg} at column {error.colno})") from None


def _from_npz(path: Path, take: int | None) -> Table:
    """The arrays of an `.npz` as columns; pickled arrays are refused."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            columns = {name: torch.from_numpy(_widen(arrays[name])) for name in arrays.files}
    except (ValueError, zipfile.BadZipFile, EOFError, OSError, TypeError) as error:
        raise BadData(f"{path} cannot be read as .npz of plain arrays: {str(error).splitlines()[0]}") from None
    if scalars := [name for name, column in columns.items() if column.ndim == 0]:
        raise BadData(f"{path}: array {scalars[0]!r} has no row axis; every array needs the rows as first axis")
    try:
        return Table({name: column[:take] for name, column in columns.items()})
    except BadData as error:
        raise BadData(f"{path}: {error}") from None


def _widen(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Floats as float32, integers as int64: what players take."""
    wide = {"f": "float32", "i": "int64", "u": "int64"}
    return array.astype(wide[array.dtype.kind]) if array.dtype.kind in wide else array


def _from_hub(spec: str, take: int | None) -> Records:
    """A data set of the hub by name: the one place where data uses the network."""
    match = re.fullmatch(r"([\w.-]+(?:/[\w.-]+)?)(?::([\w.-]+))?(?:@([\w.-]+))?", spec)
    parent = Path(spec).parent
    if match is None or Path(spec).suffix in {*KINDS, ".npz", ".gz"} or spec.startswith(".") or spec.count("/") > 1:
        siblings = [p.name for p in parent.iterdir()] if parent.is_dir() else []
        near = difflib.get_close_matches(Path(spec).name, siblings, n=1, cutoff=0.5)
        guess = f"did you mean {str(parent / near[0])!r}?" if near else f"possible: {POSSIBLE}"
        raise BadData(f"no file {spec!r}; {guess}")
    import datasets
    import huggingface_hub

    name, config, split = match.groups()
    try:
        with silent():
            if not huggingface_hub.constants.HF_HUB_OFFLINE:
                # Asked once, without the retries of the loader: a name that is a typing error is told at once.
                huggingface_hub.dataset_info(name, timeout=10)
            rows = datasets.load_dataset(name, config, split=split or "train", streaming=take is not None)
            rows = datasets.Dataset.from_list(list(rows.take(take))) if take is not None else rows
    except Exception as error:  # what a hub that is out of reach raises depends on its HTTP library
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BadData(f"no file {spec!r}, and the hub gives no data set of that name: {reason}") from None
    return Records(rows, spec)
