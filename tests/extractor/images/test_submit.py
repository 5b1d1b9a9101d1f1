"""Single images go through a long-lived pool from any thread, and come back whatever happens to its processes."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from extractor.images import feeder, processes
from extractor.images.child import Decoded, DecoderConfig, Undecodable
from extractor.images.decode import decode_image
from extractor.images.located import ListedImage
from extractor.images.pool import DecodePool, Item
from extractor.images.preprocess import network_input
from extractor.images.processes import Slots
from extractor.images.transform import Transform
from PIL import Image
from shoal.errors import JobError, Unavailable

TRANSFORM = Transform(size=32, crop_fraction=1.0)
LIMIT = 5_000_000
PATIENCE_S = 60
WaitUntil = Callable[..., None]


def config_of(folder: Path) -> DecoderConfig:
    return DecoderConfig(folder.resolve(), folder.resolve(), TRANSFORM, LIMIT, thumbnails=False)


@contextmanager
def pool_of(folder: Path, *, workers: int = 1, slots: int = 4, timeout_s: float = 120) -> Iterator[DecodePool]:
    with DecodePool(config_of(folder), workers=workers, slots=slots, timeout_s=timeout_s) as pool:
        yield pool


def png(seed: int, size: tuple[int, int] = (60, 40)) -> bytes:
    """A picture of noise, which does not compress."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=0)
    return file.getvalue()


def assert_shows(item: Item, data: bytes) -> None:
    expected = network_input(decode_image(data, max_pixels=LIMIT), TRANSFORM, max_pixels=LIMIT)
    assert item.pixels is not None, item.outcome
    np.testing.assert_array_equal(item.pixels, expected)


@contextmanager
def decoders_that(folder: Path, image: bytes, statement: str) -> Iterator[None]:
    """Decode processes that are started meanwhile run ``statement`` when they get ``image``."""
    program = folder / "program"
    program.mkdir()
    (program / "sitecustomize.py").write_text(
        "import os, signal\nfrom extractor.images import child\nreal = child.decode_image\n"
        f"def decode(data, **options):\n    if data == {image!r}:\n        {statement}\n"
        "    return real(data, **options)\nchild.decode_image = decode\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(program))
        yield


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_bytes_give_the_pixels_of_their_file(folder: Path) -> None:
    data = png(0)
    (folder / "0.png").write_bytes(data)
    with pool_of(folder) as pool:
        sent = pool.submit(data, 7).result(PATIENCE_S)
        read = pool.submit(ListedImage(("0.png",), None)).result(PATIENCE_S)
        assert_shows(sent, data)
        assert_shows(read, data)
    assert sent.index == 7
    assert isinstance(sent.outcome, Decoded)
    assert isinstance(read.outcome, Decoded)
    assert (sent.outcome.width, sent.outcome.height, sent.outcome.file_bytes) == (60, 40, len(data))
    assert (sent.outcome.sha256, len(read.outcome.sha256)) == ("", 64)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "image_empty"),
        (b"text", "image_unrecognised"),
        (png(0)[:3000], "image_truncated"),
        (png(0, (3000, 2000)), "image_too_large"),
    ],
)
def test_bytes_that_are_no_image_have_the_codes_of_files(folder: Path, data: bytes, code: str) -> None:
    with pool_of(folder, slots=1) as pool:
        bad = pool.submit(data).result(PATIENCE_S)
        assert_shows(pool.submit(png(1)).result(PATIENCE_S), png(1))  # The failure freed the only slot.
    assert isinstance(bad.outcome, Undecodable)
    assert bad.outcome.code == code


def test_threads_get_their_own_images(folder: Path) -> None:
    wrong: list[int] = []

    def use(pool: DecodePool, seeds: range) -> None:
        for seed in seeds:
            item = pool.submit(png(seed)).result(PATIENCE_S)
            try:
                assert_shows(item, png(seed))
            except AssertionError:
                wrong.append(seed)
            pool.release(item)

    with pool_of(folder, workers=2, slots=3) as pool:
        threads = [threading.Thread(target=use, args=(pool, range(k, 60, 6))) for k in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_a_stream_and_single_images_share_a_pool(folder: Path) -> None:
    names = [f"{seed}.png" for seed in range(10)]
    for seed, name in enumerate(names):
        (folder / name).write_bytes(png(seed))
    with pool_of(folder, workers=2, slots=3) as pool:
        for item in pool.stream(ListedImage((name,), None) for name in names):
            assert_shows(item, png(item.index))
            pool.release(item)
            single = pool.submit(png(100 + item.index)).result(PATIENCE_S)
            assert_shows(single, png(100 + item.index))
            pool.release(single)


def test_images_wait_for_slots(folder: Path) -> None:
    with pool_of(folder, workers=2, slots=2) as pool:
        futures = [pool.submit(png(seed), seed) for seed in range(8)]
        for seed, future in enumerate(futures):
            item = future.result(PATIENCE_S)
            assert sum(later.done() for later in futures[seed:]) <= 2
            assert_shows(item, png(seed))
            pool.release(item)


def test_an_image_cancelled_before_it_begins_is_not_decoded(folder: Path) -> None:
    with decoders_that(folder, b"evil", "os.kill(os.getpid(), signal.SIGKILL)"), pool_of(folder, slots=1) as pool:
        first = pool.submit(png(0)).result(PATIENCE_S)
        pids = pool.pids
        evil, last = pool.submit(b"evil"), pool.submit(png(1))
        assert evil.cancel()
        pool.release(first)
        assert_shows(last.result(PATIENCE_S), png(1))
        assert pool.pids == pids
        pool.release(last.result())
        died = pool.submit(b"evil").result(PATIENCE_S)
    assert isinstance(died.outcome, Undecodable)
    assert died.outcome.code == "image_decoder_died"


def test_an_image_given_up_while_it_is_decoded_frees_its_slot(folder: Path, wait_until: WaitUntil) -> None:
    with pool_of(folder, slots=1) as pool:
        pool.release(pool.submit(png(0)).result(PATIENCE_S))
        os.kill(pool.pids[0], signal.SIGSTOP)
        begun = pool.submit(png(1))
        wait_until(begun.running)
        pool.discard(begun)
        os.kill(pool.pids[0], signal.SIGCONT)
        assert_shows(pool.submit(png(2)).result(PATIENCE_S), png(2))


def test_an_item_frees_its_slot_once(folder: Path) -> None:
    slots = Slots(config_of(folder), 1)
    taken = slots.take()
    assert taken is not None
    item = slots.item(0, Decoded(0, 1, 1, 1, "", None), taken)
    assert slots.take() is None
    assert slots.release(item)
    assert slots.take() == taken
    assert not slots.release(item)
    assert slots.take() is None
    slots.close()


def test_processes_start_before_the_first_image(folder: Path, wait_until: WaitUntil) -> None:
    with pool_of(folder, workers=2) as pool:
        assert not pool.pids
        pool.start()
        wait_until(lambda: len(pool.pids) == 2)
        pids = pool.pids
        pool.submit(png(0)).result(PATIENCE_S)
        assert pool.pids == pids


def test_a_process_that_dies_idle_is_replaced(folder: Path, wait_until: WaitUntil) -> None:
    with pool_of(folder) as pool:
        for seed in range(5):  # More often than starts may fail in a row.
            item = pool.submit(png(seed)).result(PATIENCE_S)
            assert_shows(item, png(seed))
            pool.release(item)
            [pid] = pool.pids
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda pid=pid: len(pool.pids) == 1 and pool.pids != [pid])


def test_a_process_that_dies_while_bytes_are_sent_costs_nothing(folder: Path, wait_until: WaitUntil) -> None:
    large = png(0, (1500, 1500))  # More than a connection holds: sending it waits for the reader.
    with pool_of(folder) as pool:
        pool.release(pool.submit(png(0)).result(PATIENCE_S))
        [pid] = pool.pids
        os.kill(pid, signal.SIGSTOP)
        future = pool.submit(large)
        wait_until(future.running)
        os.kill(pid, signal.SIGKILL)
        assert_shows(future.result(PATIENCE_S), large)


def test_a_process_that_does_not_read_is_replaced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "MESSAGE_TIMEOUT_S", 0.3)
    large = png(0, (1500, 1500))
    with pool_of(folder) as pool:
        pool.release(pool.submit(png(0)).result(PATIENCE_S))
        [pid] = pool.pids
        os.kill(pid, signal.SIGSTOP)
        assert_shows(pool.submit(large).result(PATIENCE_S), large)
        assert not running(pid)


def test_a_process_that_does_not_get_ready_is_replaced(
    folder: Path, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pool_of(folder) as pool:
        pool.start()
        wait_until(lambda: pool.pids)
        [pid] = pool.pids
        os.kill(pid, signal.SIGSTOP)
        monkeypatch.setattr(feeder, "START_S", 1.0)
        waiting = pool.submit(png(0))  # Wakes the pool's thread.
        wait_until(lambda: not running(pid))
        monkeypatch.undo()
        assert_shows(waiting.result(PATIENCE_S), png(0))


def test_bytes_that_hang_a_decoder_are_given_up_after_the_pools_time(folder: Path) -> None:
    with decoders_that(folder, b"slow", "signal.pause()"), pool_of(folder, timeout_s=2) as pool:
        slow = pool.submit(b"slow").result(PATIENCE_S)
        assert_shows(pool.submit(png(0)).result(PATIENCE_S), png(0))
    assert isinstance(slow.outcome, Undecodable)
    assert slow.outcome.code == "image_decoder_died"
    assert "longer than 2 s, 2 times" in slow.outcome.message


def test_processes_that_could_not_start_are_tried_again(folder: Path) -> None:
    with pool_of(folder) as pool:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "executable", "/bin/false")
            waiting = [pool.submit(png(seed)) for seed in range(3)]
            for future in waiting:
                with pytest.raises(JobError, match="do not start"):
                    future.result(PATIENCE_S)
            patch.setattr(sys, "executable", "/nowhere/python")
            with pytest.raises(JobError, match="cannot be started"):
                pool.submit(png(0)).result(PATIENCE_S)
        assert_shows(pool.submit(png(0)).result(PATIENCE_S), png(0))


def test_a_closed_pool_fails_what_waits(folder: Path) -> None:
    with pool_of(folder, slots=1) as pool:
        pool.submit(png(0)).result(PATIENCE_S)
        waiting = pool.submit(png(1))
    with pytest.raises(Unavailable, match="closed before"):
        waiting.result(PATIENCE_S)
    with pytest.raises(Unavailable, match="is closed"):
        pool.submit(png(2))
