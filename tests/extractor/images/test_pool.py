"""The decode pool keeps order and memory bounds, and outlives what images do to its processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from extractor.images import child
from extractor.images import pool as pool_module
from extractor.images.child import Decoded, DecoderConfig, Task, Undecodable
from extractor.images.decode import decode_image, stamp_of
from extractor.images.located import ListedImage
from extractor.images.pool import DecodePool, Item, prefetch_slots
from extractor.images.preprocess import network_input
from extractor.images.processes import DecodeProcess
from extractor.images.transform import Transform
from extractor.sources.names import candidate_paths, listed_names
from shoal.errors import JobError

TRANSFORM = Transform(size=32, crop_fraction=1.0)
LIMIT = 1_000_000
Make = Callable[..., Path]


@contextmanager
def pool_of(folder: Path, *, workers: int = 2, slots: int = 6, timeout_s: float = 120) -> Iterator[DecodePool]:
    config = DecoderConfig(folder.resolve(), folder.resolve(), TRANSFORM, LIMIT, thumbnails=True)
    with DecodePool(config, workers=workers, slots=slots, timeout_s=timeout_s) as pool:
        yield pool


def listed(image: str | ListedImage) -> ListedImage:
    """``image``, without a stamp where it is a path alone."""
    return ListedImage((image,), None) if isinstance(image, str) else image


def drain(
    pool: DecodePool, images: Sequence[str | ListedImage], on_item: Callable[[Item], None] = lambda item: None
) -> list[Item]:
    """Every outcome, with a copy of its pixels, since slots are used again."""
    items = []
    for item in pool.stream(map(listed, images)):
        on_item(item)
        copy = None if item.pixels is None else item.pixels.copy()
        items.append(Item(item.index, item.outcome, copy, None))
        pool.release(item)
    return items


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_outcomes_come_in_order_with_the_right_pixels(folder: Path, make: Make) -> None:
    # Large ones between small ones finish out of order.
    paths = [make(f"{i:02d}.png", i, (900, 700) if i % 5 == 0 else (40, 30)).name for i in range(30)]
    with pool_of(folder, workers=3) as pool:
        items = drain(pool, paths)
    assert [item.index for item in items] == list(range(30))
    for path, item in zip(paths, items, strict=True):
        image = decode_image((folder / path).read_bytes(), max_pixels=LIMIT)
        assert item.pixels is not None
        np.testing.assert_array_equal(item.pixels, network_input(image, TRANSFORM, max_pixels=LIMIT))
        assert isinstance(item.outcome, Decoded)
        assert (item.outcome.width, item.outcome.height) == image.size
        assert item.outcome.file_bytes == (folder / path).stat().st_size


def test_bad_files_between_good_ones_cost_only_themselves(folder: Path, make: Make) -> None:
    """Fails without: the errors of an image being an outcome of it."""
    make("0.png")
    (folder / "1.png").write_bytes(b"")
    (folder / "2.jpg").write_text("text")
    make("4.png")
    (folder / "5.png").symlink_to("/etc/hostname")
    make("6.png", size=(2000, 1000))
    (folder / "7.png").write_bytes((folder / "0.png").read_bytes()[:-40])
    with pool_of(folder) as pool:
        items = drain(pool, ["0.png", "1.png", "2.jpg", "3.png", "4.png", "5.png", "6.png", "7.png"])
    codes = [item.outcome.code if isinstance(item.outcome, Undecodable) else None for item in items]
    assert codes == [
        None,
        "image_empty",
        "image_unrecognised",
        "image_unreadable",
        None,
        "image_outside_root",
        "image_too_large",
        "image_truncated",
    ]


def test_a_file_that_is_not_the_listed_one_is_an_error(folder: Path, make: Make) -> None:
    """Fails without: the stamp of the listing, which the open file must have."""
    names = ["edited.png", "removed.png", "replaced.png", "same.png", "touched.png"]
    images = [ListedImage((name,), stamp_of(make(name).stat())) for name in names]
    make("edited.png", 7)
    (folder / "removed.png").unlink()
    make("other.png", 8).replace(folder / "replaced.png")
    os.utime(folder / "touched.png", ns=(1, 1))
    with pool_of(folder) as pool:
        outcomes = [item.outcome for item in pool.stream(images)]
    codes = [outcome.code if isinstance(outcome, Undecodable) else None for outcome in outcomes]
    assert codes == ["image_changed", "image_removed", "image_changed", None, "image_changed"]
    for outcome in outcomes:
        assert isinstance(outcome, Decoded) or "ubmit the request again" in getattr(outcome, "message", "")


def test_names_that_are_not_utf8_are_decoded(folder: Path, make: Make) -> None:
    names = [
        os.fsdecode(name) for name in (b"caf\xe9.png", b"\xff.png", b"\\udcff.png", b"a\\b\xff.png", b"\xff\\xff.png")
    ]
    for index, name in enumerate(names):
        try:
            make("new.png", index).rename(folder / name)
        except OSError:
            pytest.skip("the file system takes only UTF-8")
    stamps = [stamp_of((folder / name).stat()) for name in names]
    shown = listed_names(names)
    assert len(set(shown)) == len(names)
    assert shown[:3] == ["caf\\udce9.png", "\\xff.png", "\\udcff.png"]
    with pool_of(folder) as pool:
        items = drain(
            pool, [ListedImage(candidate_paths(name), stamp) for name, stamp in zip(shown, stamps, strict=True)]
        )
    for name, item in zip(names, items, strict=True):
        image = decode_image((folder / name).read_bytes(), max_pixels=LIMIT)
        assert item.pixels is not None, item.outcome
        np.testing.assert_array_equal(item.pixels, network_input(image, TRANSFORM, max_pixels=LIMIT))


@pytest.mark.parametrize("part", ["network_input", "thumbnail"])
def test_whatever_a_picture_does_to_a_library_costs_that_picture_alone(
    folder: Path, make: Make, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    make("0.png")

    def fail(*_: object, **__: object) -> None:
        raise SystemError("tile cannot extend outside image \udcff")

    monkeypatch.setattr(child, part, fail)
    config = DecoderConfig(folder, folder, TRANSFORM, LIMIT, thumbnails=True)
    outcome = child.decode(Task(0, 0, listed("0.png")), config, np.zeros((32, 32, 3), np.uint8))
    assert isinstance(outcome, Undecodable)
    assert outcome.code == "image_invalid"
    assert "tile cannot extend" in outcome.message
    assert outcome.message.encode("utf-8")


def test_no_more_images_are_decoded_ahead_than_there_are_slots(folder: Path, make: Make) -> None:
    paths = [make(f"{i}.png", i).name for i in range(12)]
    drawn: list[str] = []

    def drawing() -> Iterator[str]:
        for path in paths:
            drawn.append(path)
            yield path

    with pool_of(folder, slots=4) as pool:
        stream = pool.stream(map(listed, drawing()))
        first = next(stream)
        assert len(drawn) <= 4 + 1  # One path is looked at in advance.
        pool.release(first)
        for item in stream:
            assert len(drawn) <= item.index + 4 + 2
            pool.release(item)
    assert drawn == paths


@pytest.mark.parametrize(
    ("harm", "why", "timeout_s"),
    [("os.kill(os.getpid(), signal.SIGKILL)", "was killed", 120), ("time.sleep(600)", "took longer than", 3)],
)
def test_an_image_that_kills_or_hangs_its_decoder_costs_only_itself(
    folder: Path, make: Make, harm: str, why: str, timeout_s: float
) -> None:
    """Fails without: the limit of how often an image is tried, and without: the limit of how long an image may take."""
    paths = [make(f"{i}.png", i).name for i in range(8)]
    os.mkfifo(folder / "evil")  # Reading it would block; the name is special to the program below.
    program = folder / "program" / "extractor_killer.py"
    program.parent.mkdir()
    program.write_text(
        "import os, signal, time\nfrom extractor.images import located\nreal = located.read_image_file\n"
        f"def read(root, path, stamp):\n    if path.name == 'evil':\n        {harm}\n"
        "    return real(root, path, stamp)\nlocated.read_image_file = read\n"
    )
    (program.parent / "sitecustomize.py").write_text("import extractor_killer\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(program.parent))
        with pool_of(folder, timeout_s=timeout_s) as pool:
            items = drain(pool, [*paths[:4], "evil", *paths[4:]])
    died = items[4].outcome
    assert isinstance(died, Undecodable)
    assert died.code == "image_decoder_died"
    assert why in died.message
    assert "2 times" in died.message
    assert [item.index for item in items if isinstance(item.outcome, Decoded)] == [0, 1, 2, 3, 5, 6, 7, 8]


def test_a_process_killed_by_chance_costs_no_image(folder: Path, make: Make) -> None:
    paths = [make(f"{i}.png", i).name for i in range(30)]
    killed: list[int] = []

    with pool_of(folder, slots=4) as pool:

        def kill(item: Item) -> None:
            if item.index in (3, 12):
                killed.append(pool.pids[0])
                os.kill(killed[-1], signal.SIGKILL)

        items = drain(pool, paths, kill)
        assert not set(killed) & set(pool.pids)
    assert len(killed) == 2
    assert all(isinstance(item.outcome, Decoded) for item in items)


def test_an_image_that_takes_for_ever_is_given_up(folder: Path, make: Make) -> None:
    """Fails without: the limit of how long an image may take."""
    paths = [make(f"{i}.png", i).name for i in range(4)]
    stopped: list[int] = []
    with pool_of(folder, workers=1, slots=2, timeout_s=2) as pool:

        def stop(item: Item) -> None:
            if item.index == 0:
                stopped.extend(pool.pids)
                os.kill(stopped[0], signal.SIGSTOP)

        items = drain(pool, paths, stop)
    assert len(items) == 4
    assert not alive(stopped[0])


def test_processes_that_cannot_start_are_an_error_not_an_endless_loop(
    folder: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    make("0.png")
    with pool_of(folder) as pool, pytest.raises(JobError, match="do not start"):
        drain(pool, ["0.png"])


def test_an_error_in_the_paths_reaches_the_reader(folder: Path, make: Make) -> None:
    make("0.png")

    def paths() -> Iterator[str]:
        yield "0.png"
        raise LookupError("the listing is gone")

    with pool_of(folder) as pool:
        stream = pool.stream(map(listed, paths()))
        with pytest.raises(LookupError, match="the listing is gone"):
            list(stream)


def test_a_reader_that_gives_up_leaves_no_process_and_no_thread(
    folder: Path, make: Make, wait_until: Callable[..., None]
) -> None:
    paths = [make(f"{i}.png", i).name for i in range(20)]
    with pool_of(folder) as pool:
        next(pool.stream(map(listed, paths)))
        pids = pool.pids
    assert pids
    wait_until(lambda: not any(alive(pid) for pid in pids))
    assert not [thread for thread in threading.enumerate() if thread.name == "decode-feeder"]


def test_processes_die_with_a_killed_parent(folder: Path, make: Make, wait_until: Callable[..., None]) -> None:
    for i in range(4):
        make(f"{i}.png", i)
    program = (
        "import sys\nfrom pathlib import Path\nfrom extractor.images.pool import DecodePool\n"
        "from extractor.images.child import DecoderConfig\nfrom extractor.images.located import ListedImage\n"
        "from extractor.images.transform import Transform\n"
        "folder = Path(sys.argv[1])\n"
        "pool = DecodePool(DecoderConfig(folder, folder, Transform(size=8), 10**6, False), workers=2, slots=2)\n"
        "stream = pool.stream(ListedImage((f'{i}.png',), None) for i in range(4))\nnext(stream)\n"
        "sys.stdout.write(' '.join(map(str, pool.pids)) + '\\n')\nsys.stdout.flush()\nsys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(folder.resolve())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert parent.stdout is not None
    assert parent.stdin is not None
    with parent.stdout, parent.stdin:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        parent.kill()
        parent.wait()
        wait_until(lambda: not any(alive(pid) for pid in pids))


def test_a_signal_to_the_whole_group_costs_no_image(folder: Path, make: Make) -> None:
    paths = [make(f"{i}.png", i).name for i in range(20)]
    signalled: list[int] = []
    with pool_of(folder, workers=1, slots=4) as pool:

        def interrupt(item: Item) -> None:
            if item.index == 2:
                signalled.extend(pool.pids)
                for number in (signal.SIGTERM, signal.SIGINT):
                    os.kill(signalled[0], number)
            elif item.index == 15:
                assert pool.pids == signalled

        items = drain(pool, paths, interrupt)
    assert all(isinstance(item.outcome, Decoded) for item in items)


def test_decode_processes_load_no_tensor_library() -> None:
    program = (
        "import extractor.images.child, sys\n"
        "heavy = {'torch', 'timm', 'tensorflow', 'faiss', 'pydantic', 'redis', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(' '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_prefetching_is_bounded_by_memory() -> None:
    assert prefetch_slots(224 * 224 * 3, workers=2, batch_size=64) == 136
    huge = 4096 * 4096 * 3
    assert prefetch_slots(huge, workers=2, batch_size=4096) * huge <= pool_module.MEMORY_BYTES


@pytest.mark.parametrize(("pixels", "most"), [(1, 1), (2500, 3600), (10**9, 12_000)])
def test_large_images_in_flight_are_bounded_by_their_pixels(
    folder: Path, make: Make, monkeypatch: pytest.MonkeyPatch, pixels: int, most: int
) -> None:
    sums: list[int] = []
    real = DecodeProcess.go

    def go(process: DecodeProcess) -> None:
        real(process)
        sums.append(sum(each.large for each in pool._feeder._processes))

    monkeypatch.setattr(DecodeProcess, "go", go)
    # Of 1,200 pixels, and of 300 that need not ask.
    paths = [make(f"{i:02d}.png", i, (20, 15) if i % 4 == 3 else (40, 30)).name for i in range(24)]
    root = folder.resolve()
    config = DecoderConfig(root, root, TRANSFORM, LIMIT, thumbnails=False, large_pixels=1000)
    with DecodePool(config, workers=4, slots=12) as pool:
        pool._feeder.large_in_flight = pixels
        items = drain(pool, paths)
    assert [item.index for item in items if isinstance(item.outcome, Decoded)] == list(range(24))
    assert len(sums) == 18
    assert max(sums) <= max(most, 1200)


def test_a_process_that_dies_over_a_large_image_gives_its_turn_to_others(folder: Path, make: Make) -> None:
    paths = [make(f"{i:02d}.png", i).name for i in range(16)]
    root = folder.resolve()
    config = DecoderConfig(root, root, TRANSFORM, LIMIT, thumbnails=False, large_pixels=0)
    killed: list[int] = []
    with DecodePool(config, workers=3, slots=6) as pool:
        pool._feeder.large_in_flight = 1

        def kill(item: Item) -> None:
            if item.index in (2, 7):
                for process in list(pool._feeder._processes):
                    if process.asks or process.large:
                        killed.append(process.pid)
                        os.kill(process.pid, signal.SIGKILL)
                        break

        items = drain(pool, paths, kill)
    assert all(isinstance(item.outcome, Decoded) for item in items)
