"""Cached tables: right after every change of files or options, rebuilt when damaged, never half written."""

import multiprocessing
import os
import stat
import threading
import time
from pathlib import Path

import h5py
import pytest
import torch

from edp_lightning.data.datamodule import OfflineDataModule
from edp_lightning.data.tables import cache
from edp_lightning.data.tables.build import build_table
from edp_lightning.data.tables.cache import cached_table, file_digest, read_facts, table_key
from edp_lightning.data.tables.recipe import TableRecipe
from tests.data.tables.test_build import RECIPE, random_episodes


def build(sink):
    return build_table(random_episodes(), RECIPE, sink)


def refuse(sink):
    raise AssertionError("the table should have come from the cache")


def table_file(folder):
    (path,) = (folder / "tables").glob("*.table")
    return path


def test_the_second_time_nothing_is_built(tmp_path):
    first, facts = cached_table("key", build, tmp_path)
    second, again = cached_table("key", refuse, tmp_path)
    assert again == facts
    assert torch.equal(first.rows, second.rows)
    assert torch.equal(first.gather(torch.tensor([3, 1])).reward, first.columns.reward[[3, 1]])


DAMAGES = {
    "truncated": lambda b: b[:-1],
    "half": lambda b: b[: len(b) // 2],
    "empty": lambda b: b"",
    "flipped bit in the rows": lambda b: b[:100] + bytes([b[100] ^ 1]) + b[101:],
    "zeros in the rows": lambda b: b[:64] + bytes(64) + b[128:],
    "facts": lambda b: b.replace(b'"rows"', b'"sowr"'),
    "other file": lambda b: b"x" * len(b),
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_damaged_file_is_rebuilt(damage, tmp_path):
    first, facts = cached_table("key", build, tmp_path)
    expected = first.rows.clone()
    path = table_file(tmp_path)
    damaged = DAMAGES[damage](path.read_bytes())
    path.unlink()  # the old mapping keeps its file
    path.write_bytes(damaged)
    assert read_facts(path) is None
    table, again = cached_table("key", build, tmp_path)
    assert again == facts
    assert torch.equal(table.rows, expected)
    assert read_facts(path) == facts


def test_large_tables_are_checked_in_samples(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "BLOCK", 64)
    monkeypatch.setattr(cache, "CHECKED_BYTES", 256)
    cached_table("key", build, tmp_path)
    path = table_file(tmp_path)
    assert read_facts(path) is not None
    path.write_bytes(b"\1" + path.read_bytes()[1:])
    assert read_facts(path) is None


def test_every_option_and_the_content_of_the_files_name_the_table(tmp_path):
    path = tmp_path / "set"
    path.write_bytes(b"content")
    folder = tmp_path / "cache"
    base = table_key((path,), "view", RECIPE, folder)
    changed = {
        "low": (-1.0, -2.0), "high": (1.0, 2.0), "goal": (1.0, 2.0), "goal_radius": 0.5, "terminals": "reward",
        "reward_transform": "none", "reward_shift": 1.0, "reward_scale": 2.0, "n_step": 1, "discount": 0.5,
        "action_clip_eps": 0.1, "action_chunk": 2,
    }  # fmt: skip
    assert changed.keys() == TableRecipe.__dataclass_fields__.keys()
    keys = [table_key((path,), "view", TableRecipe(**{**vars(RECIPE), name: value}), folder) for name, value in changed.items()]
    keys.append(table_key((path,), "other view", RECIPE, folder))
    path.write_bytes(b"CONTENT")
    keys.append(table_key((path,), "view", RECIPE, folder))
    assert len({base, *keys}) == 1 + len(keys)
    path.write_bytes(b"content")
    assert table_key((path,), "view", RECIPE, folder) == base
    moved = tmp_path / "elsewhere" / "set"
    moved.parent.mkdir()
    path.rename(moved)
    assert table_key((moved,), "view", RECIPE, folder) == base


def test_a_digest_is_remembered_only_while_the_file_is_untouched(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "SETTLED_SECONDS", -1.0)
    path, folder = tmp_path / "set", tmp_path / "cache"
    path.write_bytes(b"content")
    first = file_digest(path, folder)
    assert len(list((folder / "digests").iterdir())) == 1
    times = path.stat()
    time.sleep(0.02)  # time stamps are as coarse as the system's clock tick
    path.write_bytes(b"CONTENT")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # same size, same time of modification
    assert file_digest(path, folder) != first


def test_a_fresh_file_is_not_remembered(tmp_path):
    path = tmp_path / "set"
    path.write_bytes(b"content")
    file_digest(path, tmp_path / "cache")
    assert not (tmp_path / "cache" / "digests").exists()


def test_a_failed_build_leaves_nothing_behind(tmp_path):
    def fail(sink):
        build(sink)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_table("key", fail, tmp_path)
    assert {path.suffix for path in (tmp_path / "tables").iterdir()} == {".lock"}


def test_a_cache_that_cannot_be_written_costs_a_warning_only(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="cannot be cached"):
        table, facts = cached_table("key", build, tmp_path / "file")
    assert len(table) == facts.rows


def test_a_full_disk_costs_a_warning_only(tmp_path, monkeypatch):
    def full(self, rows):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.FileRows, "append", full)
    with pytest.warns(UserWarning, match="No space left"):
        table, _ = cached_table("key", build, tmp_path)
    assert len(table) == 25
    assert not list((tmp_path / "tables").glob("[!k]*"))


def use(folder, results):
    results.put(float(cached_table("key", build, folder)[0].rows.double().sum()))


def test_two_processes_at_once_get_the_same_table(tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=use, args=(tmp_path, results)) for _ in range(2)]
    for process in processes:
        process.start()
    sums = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert sums[0] == sums[1]
    assert read_facts(table_file(tmp_path)) is not None


def test_of_two_at_once_one_builds(tmp_path):
    started, builds = threading.Barrier(2), []

    def slow(sink):
        builds.append(1)
        time.sleep(0.2)
        return build(sink)

    def run():
        started.wait()
        cached_table("key", slow, tmp_path)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(builds) == 1


def test_the_longest_unused_tables_go_first(tmp_path, monkeypatch):
    cached_table("old", build, tmp_path)
    cached_table("used", build, tmp_path)
    size = (tmp_path / "tables" / "old.table").stat().st_size
    for age, name in ((2000, "used"), (1000, "old")):
        then = time.time() - age
        os.utime(tmp_path / "tables" / f"{name}.table", (then, then))
    cached_table("used", refuse, tmp_path)
    monkeypatch.setattr(cache, "LIMIT_BYTES", int(2.5 * size))
    cached_table("new", build, tmp_path)
    assert {path.stem for path in (tmp_path / "tables").glob("*.table")} == {"used", "new"}


def prepared(**options):
    data = OfflineDataModule("tests/random-v0", **options)
    data.setup("validate")
    return data


def test_a_dataset_comes_back_equal_from_the_cache(random_set, tmp_path, monkeypatch):
    plain, first = prepared(cache=False), prepared()
    path = table_file(tmp_path / "cache")
    monkeypatch.setattr("edp_lightning.data.tables.source_table.build_table", None)
    cached = prepared()
    assert path == table_file(tmp_path / "cache")
    for data in (first, cached):
        assert torch.equal(data.table.rows, plain.table.rows)
        assert data.card == plain.card
        assert data.dataset_info == plain.dataset_info
        assert torch.equal(data.observation_std, plain.observation_std)


def test_a_changed_dataset_is_read_again(random_set, minari_root):
    before = prepared().transitions.reward[0].item()
    with h5py.File(minari_root / random_set / "data" / "main_data.hdf5", "a") as file:
        file["episode_0/rewards"][0] = before + 1
    assert prepared().transitions.reward[0].item() == before + 1


def test_a_cache_of_another_user_is_read(tmp_path, monkeypatch):
    """Whose lock cannot be written and whose table's date cannot be set: as on a folder that a group shares."""
    _, facts = cached_table("shared", build, tmp_path)
    table = tmp_path / "tables" / "shared.table"
    assert stat.S_IMODE(table.stat().st_mode) == 0o666 & ~umask()
    opened = Path.open

    def open_to_read(self, mode="r", *args, **kwargs):
        if "w" in mode:
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, mode, *args, **kwargs)

    def forbid(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "open", open_to_read)
    monkeypatch.setattr(os, "utime", forbid)
    assert cached_table("shared", refuse, tmp_path)[1] == facts


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
