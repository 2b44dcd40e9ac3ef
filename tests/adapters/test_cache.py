"""The cache on disk: whatever kills, cuts, flips or races it, it holds whole rows, or says which one is not."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from limbeck.adapters import cache as module
from limbeck.adapters.blocks import Row
from limbeck.adapters.cache import About, TargetCache, row_keys
from limbeck.adapters.packing import Grid, pack, unpack
from limbeck.errors import BadData, BadValue, Mismatch, RunError
from tests.test_resume import in_child

ABOUT = About("family", 100, "./big", "0123", {"kind": "likeliest", "k": 3})


def batch_of(number: int) -> dict[str, torch.Tensor]:
    """Four rows of 0 to 6 tokens that belong to a number; the row of length 1 has no target."""
    rng = np.random.default_rng(number)
    length = torch.tensor([6, 4, 1, 5])
    tokens = torch.from_numpy(rng.integers(3, 100, (4, 6))).masked_fill(torch.arange(6) >= length[:, None], 0)
    mask = (torch.arange(6) >= 2) & (torch.arange(6) < length[:, None])
    return {"tokens": tokens, "mask": mask}


def rows_of(number: int) -> list[Row]:
    """Targets for the rows of a batch that have some: as a teacher would answer, the same whenever it is asked."""
    rng, rows = np.random.default_rng(1000 + number), []
    batch = batch_of(number)
    for key, mask in zip(row_keys(batch), batch["mask"], strict=True):
        n = int(mask.sum())
        ids = np.stack([rng.choice(100, 3, replace=False) for _ in range(n)] or [np.zeros(3, int)])
        logp = np.log(rng.dirichlet(np.ones(4), max(n, 1)))
        if key:
            packed = pack(ids, logp[:, :3], logp[:, 3], Grid())
            rows.append(Row(key, packed, np.exp(logp[:, :3]).sum(1), float(rng.random())))
    return rows


def filled(path: Path, numbers: Any = range(3)) -> TargetCache:
    cache = TargetCache(path, ABOUT)
    for number in numbers:
        cache.append(rows_of(number))
    return cache


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(path.iterdir())}


def truth(number: int) -> tuple[Any, ...]:
    """The targets of a batch, in memory alone."""
    rows, batch, tail = iter(rows_of(number)), batch_of(number), torch.zeros(4, 6)
    ids_BTK, logp_BTK = torch.zeros(4, 6, 3, dtype=torch.int64), torch.full((4, 6, 3), -torch.inf)
    for b, mask in enumerate(batch["mask"]):
        if mask.any():
            found = unpack([next(rows).packed], [int(mask.sum())], Grid())
            ids_BTK[b, mask] = torch.from_numpy(found.ids).view(-1, 3)
            logp_BTK[b, mask] = torch.from_numpy(found.logp).float().view(-1, 3)
            tail[b, mask] = torch.from_numpy(found.tail).float()
    return ids_BTK, logp_BTK, tail


def holds(cache: TargetCache, number: int) -> bool:
    found = cache.read(batch_of(number))
    return all(torch.equal(found[k], t) for k, t in zip(("ids", "logp", "tail"), truth(number), strict=True))


def test_rows_are_read_on_their_target_positions_in_any_order(tmp_path: Path) -> None:
    cache = filled(tmp_path / "c")
    for opened in (cache, TargetCache(tmp_path / "c")):
        assert all(holds(opened, n) for n in (2, 0, 1)) and len(opened) == 9
        found = opened.read(batch_of(1))
        assert found["ids"].dtype == torch.int64 and found["logp"].dtype == torch.float32
        assert found["ids"].shape == found["logp"].shape == (4, 6, 3) and found["tail"].shape == (4, 6)
        lost = ~batch_of(1)["mask"]
        assert (found["logp"][lost] == -torch.inf).all() and (found["tail"][lost] == 0).all()


def test_padding_order_and_what_follows_the_last_target_do_not_matter(tmp_path: Path) -> None:
    cache, batch = filled(tmp_path / "c"), batch_of(1)
    wide = {k: torch.nn.functional.pad(v.flip(0), (0, 3)) for k, v in batch.items()}
    wide["tokens"][0, 7] = 55
    assert torch.equal(cache.read(wide)["ids"][:, :6].flip(0), cache.read(batch)["ids"])


def test_rows_without_targets_and_batches_without_rows_are_nothing(tmp_path: Path) -> None:
    cache = filled(tmp_path / "c", ())
    empty = {"tokens": torch.zeros(2, 3, dtype=torch.long), "mask": torch.zeros(2, 3, dtype=torch.bool)}
    for batch in (empty, {k: v[:0] for k, v in empty.items()}, {k: v[:, :0] for k, v in empty.items()}):
        found = cache.read(batch)
        assert found["ids"].shape == (*batch["mask"].shape, 1) and (found["logp"] == -torch.inf).all()
    cache.append([])
    assert cache.report()["tokens"] == 0 and not (tmp_path / "c" / "000000.rows").exists()


def test_a_row_that_comes_again_is_stored_once(tmp_path: Path) -> None:
    cache = filled(tmp_path / "c", (0, 0, 1, 0))
    assert contents(tmp_path / "c") == contents(filled(tmp_path / "d", (0, 1)).path)
    cache.append(rows_of(2) + rows_of(2))
    assert len(cache) == 9 and holds(cache, 2)


def test_a_mask_makes_another_row_of_the_same_tokens() -> None:
    batch = batch_of(0)
    other = {**batch, "mask": batch["mask"] & (torch.arange(6) != 3)}
    assert row_keys(batch)[0] != row_keys(other)[0] and row_keys(batch)[2] == b""


def test_what_is_read_beside_the_tokens_makes_another_row_and_its_padding_does_not() -> None:
    length = torch.tensor([3, 2, 1, 1])
    batch = batch_of(0) | {"source": torch.arange(12).reshape(4, 3), "source_length": length}
    other = {**batch, "source": batch["source"] + torch.tensor([[0, 0, 1]])}  # beyond the length of all but the first
    wide = {**batch, "source": torch.nn.functional.pad(batch["source"], (0, 2), value=9)}
    keys, changed = row_keys(batch), row_keys(other)
    assert keys[0] not in (changed[0], row_keys(batch_of(0))[0]) and keys[1:] == changed[1:] and keys == row_keys(wide)
    texts = {**batch_of(0), "source": ["a text", "of", "no", "matter"]}
    assert row_keys(texts) == row_keys(batch_of(0)), "a column of texts that has this name is not read by the model"


def test_a_first_token_that_is_a_target_is_refused() -> None:
    with pytest.raises(BadData, match="row 1 of the batch has a first token that is a target"):
        row_keys({"tokens": torch.ones(2, 2), "mask": torch.tensor([[False, True], [True, True]])})


def test_the_report_is_what_was_stored(tmp_path: Path) -> None:
    cache = filled(tmp_path / "c")
    rows = [row for number in range(3) for row in rows_of(number)]
    mass, said = np.concatenate([row.mass for row in rows]), cache.report()
    assert json.loads((tmp_path / "c" / "cache.json").read_text())["report"] == said
    assert said["rows"] == 9 and said["tokens"] == len(mass) == 27
    assert said["mass"] == pytest.approx(mass.mean(), abs=1e-6)
    assert said["kl"] == pytest.approx(sum(row.kl for row in rows) / 27, abs=1e-6)
    tenth = np.sort(mass)[int(np.ceil(0.1 * 27)) - 1]  # a bin is a factor of sqrt 2 of what is lost
    assert 1 - 2**0.5 * (1 - tenth) - 1e-6 <= said["mass_p10"] <= tenth
    on_disk = sum(len(content) for name, content in contents(tmp_path / "c").items() if name != "cache.json")
    assert said["bytes_per_token"] == pytest.approx(on_disk / 27, abs=0.01)
    assert said["data"] == filled(tmp_path / "d", (2, 1, 0)).report()["data"] != filled(tmp_path / "e", (0, 1)).report()


def test_files_are_begun_anew_when_they_are_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARD", 300)
    cache = filled(tmp_path / "c", range(8))
    assert len(list((tmp_path / "c").glob("*.rows"))) == 8
    assert all(holds(opened, n) for opened in (cache, TargetCache(tmp_path / "c")) for n in range(8))


# -- killed -----------------------------------------------------------------------------------------------------------


def test_killed_at_any_byte_it_ends_as_if_it_never_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writes of a block, cut at every third byte and at their ends; then the rest is filled in."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # for speed: a killed process leaves what it wrote all the same
    whole = contents(filled(tmp_path / "whole").path)
    before = contents(filled(tmp_path / "before", range(2)).path)
    rows, index = len(before["000000.rows"]), len(before["index"])
    states = [{**before, "000000.rows": whole["000000.rows"][:n]} for n in range(rows, len(whole["000000.rows"]), 3)]
    after = {**before, "000000.rows": whole["000000.rows"]}
    states += [{**after, "index": whole["index"][:n]} for n in range(len(whole["index"]), index - 1, -3)]
    for n, state in enumerate(states):
        path = tmp_path / "cut"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        for name, content in state.items():
            (path / name).write_bytes(content)
        if n % 50 == 0:
            assert holds(TargetCache(path), 1)  # readers cut nothing away
        cache = TargetCache(path, ABOUT)
        assert (rows_of(2)[0].key in cache) == (len(state["000000.rows"]) == len(whole["000000.rows"]))
        cache.append(rows_of(2))
        assert contents(path) == whole


@pytest.mark.parametrize("moment", [1, 100, 700, 1500])
def test_killed_while_writing_it_ends_as_if_it_never_was(tmp_path: Path, moment: int) -> None:
    """A process that is killed in the middle of a write, again and again."""
    whole = contents(filled(tmp_path / "whole", range(6)).path)
    written = {"bytes": 0}
    plain = module._append

    def mortal(file: Path, content: bytes) -> None:
        written["bytes"] += len(content)
        if written["bytes"] > moment:
            with file.open("ab") as opened:
                opened.write(content[: max(0, len(content) - (written["bytes"] - moment))])
            os.kill(os.getpid(), signal.SIGKILL)
        plain(file, content)

    def fill() -> None:
        module._append = mortal
        filled(tmp_path / "cut", range(6))

    deaths = 0
    while in_child(fill) == -signal.SIGKILL and deaths < 5:
        deaths += 1
    assert deaths
    assert contents(filled(tmp_path / "cut", range(6)).path) == whole


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path) -> None:
    filled(tmp_path / "c", range(1))

    def die_before_the_name_is_given() -> None:
        os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
        filled(tmp_path / "c", range(2))

    assert in_child(die_before_the_name_is_given) == -signal.SIGKILL
    left = [name for name in contents(tmp_path / "c") if name.startswith(".cache.json.")]
    assert len(left) == 1
    (tmp_path / "c" / ".index.x").write_bytes(b"half")
    assert holds(TargetCache(tmp_path / "c"), 0) and left[0] in contents(tmp_path / "c"), "readers touch nothing"
    assert contents(filled(tmp_path / "c", range(2)).path) == contents(filled(tmp_path / "whole", range(2)).path)


def test_a_lost_or_damaged_index_is_made_again(tmp_path: Path) -> None:
    whole = contents(filled(tmp_path / "c").path)
    for damaged in (b"", whole["index"][:-7], b"x" + whole["index"][1:], whole["index"].replace(b"LBT1", b"LBT2", 2)):
        (tmp_path / "c" / "index").write_bytes(damaged)
        assert holds(TargetCache(tmp_path / "c"), 2) and (tmp_path / "c" / "index").read_bytes() == damaged
        assert contents(TargetCache(tmp_path / "c", ABOUT).path) == whole
    (tmp_path / "c" / "index").unlink()
    assert contents(TargetCache(tmp_path / "c", ABOUT).path) == whole


def test_random_damage_to_the_index_is_never_believed(tmp_path: Path) -> None:
    whole, rng = contents(filled(tmp_path / "c").path), random.Random(0)
    for _ in range(100):
        damaged = bytearray(whole["index"])
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        (tmp_path / "c" / "index").write_bytes(damaged)
        assert all(holds(TargetCache(tmp_path / "c"), n) for n in range(3))


def test_a_full_disk_is_an_error_and_what_was_done_is_kept(tmp_path: Path) -> None:
    whole = contents(filled(tmp_path / "whole", range(6)).path)

    def fill() -> None:
        limit = len(whole["000000.rows"]) - 100
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            filled(tmp_path / "c", range(6))
        except RunError as error:
            (tmp_path / "said").write_text(str(error))

    assert in_child(fill) == 0
    assert "000000.rows: File too large; free or mend it" in (tmp_path / "said").read_text()
    assert holds(TargetCache(tmp_path / "c"), 4)
    assert contents(filled(tmp_path / "c", range(6)).path) == whole


# -- damaged ----------------------------------------------------------------------------------------------------------


def test_a_flipped_byte_is_found_in_the_row_that_it_is_in(tmp_path: Path) -> None:
    cache = filled(tmp_path / "c")
    block = cache._blocks[1]
    entry = block.entries[1]
    place = int(block.head["start"] + entry["at"]) + 5
    file = tmp_path / "c" / "000000.rows"
    content = bytearray(file.read_bytes())
    content[place] ^= 4
    file.write_bytes(content)
    again = TargetCache(tmp_path / "c")
    assert holds(again, 0) and holds(again, 2)
    with pytest.raises(BadData, match=r"000000\.rows, row 4: its bytes do not match their checksum; copy it again"):
        again.read(batch_of(1))


def test_a_cut_or_lost_file_is_named_and_its_rows_are_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARD", 300)
    whole = contents(filled(tmp_path / "c", range(4)).path)
    file = tmp_path / "c" / "000001.rows"
    for damage in (file.unlink, lambda: file.write_bytes(whole[file.name][:-1])):
        damage()
        with pytest.raises(BadData, match=r"000001\.rows is gone or cut: its rows end at byte \d+; copy it again"):
            TargetCache(tmp_path / "c")
        cache = TargetCache(tmp_path / "c", ABOUT)
        assert len(cache) == 9 and holds(cache, 3) and rows_of(1)[0].key not in cache
        with pytest.raises(
            BadData, match="does not hold 3 of 4 rows that are asked for, the first of them row 0: cache:"
        ):
            cache.read(batch_of(1))
        cache.append(rows_of(1))
        assert all(holds(TargetCache(tmp_path / "c"), n) for n in range(4))
        shutil.rmtree(tmp_path / "c")
        filled(tmp_path / "c", range(4))


# -- two writers ------------------------------------------------------------------------------------------------------


def test_two_writers_take_turns_and_every_row_is_stored_once(tmp_path: Path) -> None:
    filled(tmp_path / "c", ())
    children = []
    for numbers in (range(0, 40), range(39, -1, -1), range(0, 40, 2)):
        pid = os.fork()
        if pid == 0:
            try:
                filled(tmp_path / "c", numbers)
            except BaseException:
                os._exit(1)
            os._exit(0)
        children.append(pid)
    assert all(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0 for pid in children)
    cache = TargetCache(tmp_path / "c")
    assert len(cache) == 120 == cache.report()["rows"] and all(holds(cache, n) for n in range(40))
    assert cache.report()["tokens"] == 120 * 3
    assert json.loads((tmp_path / "c" / "cache.json").read_text())["report"] == cache.report()


def test_a_writer_sees_what_another_wrote_meanwhile(tmp_path: Path) -> None:
    first, second = filled(tmp_path / "c", (0,)), filled(tmp_path / "c", (1,))
    assert len(first) == 3
    first.append(rows_of(1))
    assert len(first) == 6 and holds(first, 1) and holds(second, 0)


# -- belonging --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"tokenizer": "other"}, "another tokenizer: family there, other here"),
        ({"weights": "4567", "teacher": "./two"}, r"another teacher: \./big \(0123\) there, \./two \(4567\) here"),
        ({"targets": {"kind": "likeliest", "k": 4}}, "another kind of targets: .* there, .*4} here"),
        ({"vocabulary": 99}, "another vocabulary: 100 there, 99 here"),
        ({"step": 0.5}, "another step: 0.0625 there, 0.5 here"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_what_does_not_belong_is_refused(tmp_path: Path, other: dict[str, Any], says: str) -> None:
    filled(tmp_path / "c")
    before = contents(tmp_path / "c")
    with pytest.raises(Mismatch, match=says) as told:
        TargetCache(tmp_path / "c", About(**{**vars(ABOUT), **other}))
    assert "\n" not in str(told.value) and contents(tmp_path / "c") == before


def test_a_teacher_that_has_moved_is_the_same(tmp_path: Path) -> None:
    filled(tmp_path / "c")
    assert len(TargetCache(tmp_path / "c", About(**{**vars(ABOUT), "teacher": "/elsewhere"}))) == 9


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "is no cache of targets: it has no cache.json; .*c:TEACHER fills one"),
        ("{", "cache.json is broken"),
        ("[]", "cache.json is broken"),
        ('{"format": 1}', "cache.json is broken"),
        ('{"format": 2}', "of format 2; this version of limbeck reads format 1"),
    ],
)
def test_what_is_no_cache_is_refused(tmp_path: Path, content: str | None, says: str) -> None:
    path = tmp_path / "c"
    path.mkdir()
    if content is not None:
        (path / "cache.json").write_text(content)
    with pytest.raises((BadData, Mismatch), match=says):
        TargetCache(path)


def test_other_things_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("mine")
    for path in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(BadValue, match="is or holds something else than a cache of targets"):
            TargetCache(path, ABOUT)
    assert contents(tmp_path) == {"model.safetensors": b"mine"}
    with pytest.raises(BadData, match="is no cache of targets"):
        TargetCache(tmp_path / "model.safetensors")
