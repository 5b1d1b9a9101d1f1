"""Files that are not what they seem: bombs, pickles, archives that climb, links that change."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from extractor.images.decode import decode_image, read_image_file
from extractor.models.checkpoints import reading
from PIL import Image
from shoal.cli import demo
from shoal.errors import (
    ImageInvalid,
    ImageOutsideRoot,
    ImageTooLarge,
    ImageUnreadable,
    ImportInvalid,
    PathNotFound,
    PathOutsideRoot,
    WeightsInvalid,
)
from shoal.importer import import_embeddings
from shoal.store import Store
from shoal.userfiles import open_confined

MAX_PIXELS = 1_000_000


class Dropper:
    """What an unpickler would run."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.target),))


def _png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    inner = b"".join(chunk(*each) for each in chunks)
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 100_000, 9))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + inner + pixels + chunk(b"IEND", b"")


def _bomb_gif() -> bytes:
    return b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\0\0\0," + struct.pack("<HHHH", 0, 0, 65535, 65535) + b"\0"


def _bomb_bmp() -> bytes:
    return (
        b"BM"
        + struct.pack("<IHHI", 54, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, 2**30, 2**30, 1, 24, 0, 0, 0, 0, 0, 0)
    )


def _bomb_ppm() -> bytes:
    return b"P6 1000000 1000000 255\n"


def _bomb_tiff() -> bytes:
    file = io.BytesIO()
    Image.new("1", (4000, 4000)).save(file, "TIFF", compression="group4")
    return file.getvalue()


@pytest.mark.parametrize(
    "data", [_png(50_000, 50_000), _png(2**31 - 1, 1), _bomb_gif(), _bomb_bmp(), _bomb_ppm(), _bomb_tiff()]
)
def test_a_small_file_of_many_pixels_is_refused_by_its_header(data: bytes) -> None:
    """Fails without: the limit of pixels that a header may claim."""
    assert len(data) < 200_000
    with pytest.raises(ImageInvalid) as caught:
        decode_image(data, max_pixels=MAX_PIXELS)
    assert caught.value.code in {"image_too_large", "image_truncated"}


def test_a_text_that_unpacks_to_gigabytes_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    text = b"Comment\0\0" + zlib.compress(b"\0" * 300_000_000, 9)
    with pytest.raises(ImageInvalid):
        decode_image(_png(10, 10, (b"zTXt", text), (b"zTXt", text)), max_pixels=MAX_PIXELS)


@pytest.mark.parametrize(
    "data",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        b"%PDF-1.7\n",
        b"\x7fELF\x02\x01\x01" + b"\0" * 100,
        b"PK\x03\x04" + b"\0" * 100,
        b"icns" + struct.pack(">I", 100) + b"\0" * 100,
        b"8BPS\0\1" + b"\0" * 100,
        b"\x01\x00\x00\x00" + b"\0" * 200,
    ],
)
def test_only_image_formats_are_opened_whatever_a_name_says(data: bytes) -> None:
    with pytest.raises(ImageInvalid):
        decode_image(data, max_pixels=MAX_PIXELS)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path.resolve() / "root"
    root.mkdir()
    Image.new("RGB", (4, 4)).save(root / "a.png")
    (tmp_path / "secret").write_bytes(b"secret")
    return root


@pytest.mark.parametrize("target", ["../secret", "/etc/passwd", "/proc/self/environ", "/dev/zero"])
def test_a_link_to_elsewhere_is_not_read(root: Path, target: str) -> None:
    (root / "link.png").symlink_to(target)
    with pytest.raises(ImageOutsideRoot):
        read_image_file(root, root / "link.png")


def test_a_pipe_does_not_block_and_is_not_read(root: Path) -> None:
    os.mkfifo(root / "pipe.png")
    with pytest.raises(ImageUnreadable):
        read_image_file(root, root / "pipe.png")


def test_a_folder_named_like_an_image_is_not_read(root: Path) -> None:
    (root / "folder.png").mkdir()
    with pytest.raises(ImageUnreadable):
        read_image_file(root, root / "folder.png")


def test_a_link_that_is_swapped_while_it_is_checked_gains_nothing(root: Path) -> None:
    link, stop = root / "link.png", threading.Event()
    link.symlink_to("a.png")

    def swap() -> None:
        other = root / "other"
        while not stop.is_set():
            for target in ("../secret", "a.png"):
                other.symlink_to(target)
                other.replace(link)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(300):
            try:
                with open_confined(root, link) as file:
                    assert file.read() != b"secret"
            except PathOutsideRoot:
                pass
    finally:
        stop.set()
        thread.join()


def _pickled_checkpoint(path: Path, target: Path) -> None:
    path.write_bytes(pickle.dumps({"state_dict": {}, "hook": Dropper(target)}, protocol=2))


def _torch_checkpoint(path: Path, target: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"hook": Dropper(target)}, protocol=2))
        archive.writestr("archive/version", "3")


@pytest.mark.parametrize("write", [_pickled_checkpoint, _torch_checkpoint])
def test_a_checkpoint_runs_nothing(tmp_path: Path, write: Any) -> None:
    checkpoint, dropped = tmp_path / "weights.pth", tmp_path / "dropped"
    write(checkpoint, dropped)
    with pytest.raises(WeightsInvalid):
        reading.read(checkpoint)
    assert not dropped.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04.",
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 100) + b'{"a": {"dtype": "F32", "shape": [1000000000], "data_offsets": [0, 4]}}'.ljust(100),
        b"PK\x03\x04" + b"\0" * 50,
        b"[" * 100_000,
    ],
)
def test_a_broken_checkpoint_is_refused_in_words(tmp_path: Path, content: bytes) -> None:
    checkpoint = tmp_path / "weights.pth"
    checkpoint.write_bytes(content)
    with pytest.raises(WeightsInvalid):
        reading.read(checkpoint)


def test_embeddings_run_nothing(tmp_path: Path) -> None:
    dropped = tmp_path / "dropped"
    np.save(tmp_path / "evil.npy", np.array([Dropper(dropped)], dtype=object), allow_pickle=True)
    with pytest.raises(ImportInvalid):
        import_embeddings(Store(tmp_path / "store"), tmp_path / "evil.npy", name="evil", labels=None, split=None)
    assert not dropped.exists()


def test_an_array_that_claims_to_be_huge_is_refused(tmp_path: Path) -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 2048), }".ljust(117) + b"\n"
    (tmp_path / "evil.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    with pytest.raises(ImportInvalid):
        import_embeddings(Store(tmp_path / "store"), tmp_path / "evil.npy", name="evil", labels=None, split=None)


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, link, 0
    return member


@pytest.mark.parametrize(
    "members",
    [
        [_member("../evil")],
        [_member("/tmp/shoal-evil")],
        [_member("package/../../evil")],
        [_member("package/link", tarfile.SYMTYPE, "../../.."), _member("package/link/evil")],
        [_member("package/link", tarfile.LNKTYPE, "../../../etc/passwd")],
        [_member("package/device", tarfile.CHRTYPE)],
        [_member("package/link", tarfile.SYMTYPE, "/etc")],
    ],
)
def test_an_archive_of_images_cannot_climb_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, members: list[tarfile.TarInfo]
) -> None:
    def pack(words: list[str], work: Path) -> None:
        with tarfile.open(work / "images.tgz", "w:gz") as archive:
            for member in members:
                archive.addfile(member)

    monkeypatch.setattr(demo, "run", pack)
    monkeypatch.setattr(shutil, "which", lambda tool: tool)
    with pytest.raises((PathNotFound, tarfile.FilterError)):
        demo.fetch_images(tmp_path / "images", "emoji", lambda _: None)
    assert not (tmp_path / "evil").exists()
    assert not Path("/tmp/shoal-evil").exists()


def test_a_file_too_large_to_be_an_image_is_not_read(root: Path) -> None:
    with (root / "large.png").open("wb") as file:
        file.truncate(2**30 + 1)
    with pytest.raises(ImageTooLarge):
        read_image_file(root, root / "large.png")


def test_a_decoder_that_needs_too_much_memory_gives_an_error_and_lives(
    root: Path,
) -> None:
    # In a process of its own, since a limit cannot be lifted again.
    script = f"""
import resource
from pathlib import Path
import numpy as np
from extractor.images import child, located
from extractor.images.transform import Transform
from PIL import Image

root = Path({str(root)!r})
Image.new("RGB", (6000, 6000)).save(root / "wide.png")
transform = Transform(size=8, crop_fraction=1.0, interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1))
config = child.DecoderConfig(root, root, transform, max_pixels=10**9, thumbnails=False)
used = int(Path("/proc/self/status").read_text().split("VmData:")[1].split()[0]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + 60 * 2**20, resource.RLIM_INFINITY))
slot = np.zeros((8, 8, 3), np.uint8)
outcome = child.decode(child.Task(0, 0, located.ListedImage(("wide.png",), None)), config, slot)
assert outcome.code == "image_too_large", outcome
assert isinstance(child.decode(child.Task(1, 0, located.ListedImage(("a.png",), None)), config, slot), child.Decoded)
child.limit_memory(10**6)
assert resource.getrlimit(resource.RLIMIT_DATA)[0] == child.BASE_BYTES + 16 * 10**6
"""
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
