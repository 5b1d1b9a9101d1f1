"""Every file below a folder is taken or named, each folder is walked once, and no name stops a job."""

from __future__ import annotations

import os
import unicodedata
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from extractor.images.decode import sniff
from extractor.sources import folder as folder_module
from extractor.sources import listing
from extractor.sources.listing import list_source
from PIL import Image
from shoal.errors import NoImages
from shoal.schemas import ImageSource
from shoal.settings import Settings

PSD = b"8BPS\0\x01" + bytes(100)
JXL = b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(100)

check = partial(listing.check, deadline=None)


def encoded(kind: str) -> bytes:
    file = BytesIO()
    Image.new("RGB", (8, 8), (200, 30, 30)).save(file, kind)
    return file.getvalue()


def put(folder: Path, **files: bytes) -> None:
    """Write files; ``__`` in a name stands for a slash, ``_`` before the extension for its dot."""
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def source(**fields: Any) -> ImageSource:
    return ImageSource(path="set", **fields)


def taken(settings: Settings, **options: Any) -> list[str]:
    return list_source(source(), settings.data, **options).table.column("image_path").to_pylist()


def left_out(settings: Settings, **options: Any) -> dict[tuple[str, str | None], Any]:
    """What was not taken, by reason and suffix."""
    groups = list_source(source(), settings.data, **options).notes["not_taken"]
    return {(group["reason"], group["suffix"]): group for group in groups}


class TestContent:
    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            ("x.jfif", "JPEG"),
            ("x.jpe", "JPEG"),
            ("x.avif", "AVIF"),
            ("x.jp2", "JPEG2000"),
            ("x.tga", "TGA"),
            ("x", "JPEG"),
            ("x.001", "PNG"),
            ("x.jpg_large", "JPEG"),
            ("x.bak", "WEBP"),
            ("x.data", "BMP"),
            ("x.txt", "GIF"),
            ("x.bin", "PPM"),
            ("X.QOI", "QOI"),
        ],
    )
    def test_decides_whatever_the_name(self, settings: Settings, folder: Path, name: str, kind: str) -> None:
        (folder / name).write_bytes(encoded(kind))
        assert taken(settings) == [name]

    def test_what_is_not_taken_is_named_by_reason_and_extension(self, settings: Settings, folder: Path) -> None:
        put(
            folder,
            a_png=b"x",
            b_psd=PSD,
            c_psd=PSD,
            d_jxl=JXL,
            e=PSD,
            f_txt=b"BMW is a car",
            g_json=b"{}",
            h=b"",
            i_nef=b"II*\0" + bytes(100),
            j_crdownload=encoded("JPEG"),
            k_mp4=b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2" + bytes(50),
            l_md=b"P5 is a Perl version",
        )
        found = left_out(settings)
        assert taken(settings) == ["a.png"]
        assert {key: group["count"] for key, group in found.items()} == {
            ("unsupported_format", ".psd"): 2,
            ("unsupported_format", ".jxl"): 1,
            ("unsupported_format", None): 1,
            ("unsupported_format", ".nef"): 1,
            ("unfinished_download", ".crdownload"): 1,
            ("not_an_image", ".txt"): 1,
            ("not_an_image", ".json"): 1,
            ("not_an_image", ".mp4"): 1,
            ("not_an_image", ".md"): 1,
            ("not_an_image", None): 1,
        }
        psd = found["unsupported_format", ".psd"]
        assert psd["examples"] == ["b.psd", "c.psd"]
        assert psd["message"].startswith("2 .psd files hold PSD, which is not supported: convert it to JPEG or PNG")
        assert found["not_an_image", None]["message"] == "1 file without a known extension is not an image."

    def test_a_folder_of_such_files_alone_says_what_they_are(self, settings: Settings, folder: Path) -> None:
        put(folder, a_psd=PSD, b_psd=PSD)
        for refuse in (check, list_source):
            with pytest.raises(NoImages, match=r"2 \.psd files hold PSD, which is not supported: convert") as caught:
                refuse(source(), settings.data)
            assert caught.value.members["not_taken"][0]["count"] == 2

    def test_files_of_an_extension_are_not_looked_into_for_ever(
        self, settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(folder_module, "SNIFFED_FILES", 5)
        put(folder, a_png=b"x", **{f"{number}_json": b"{}" for number in range(8)})
        put(folder, **{f"{number}_dat": encoded("PNG") for number in range(8)})
        found = left_out(settings)
        assert found["not_an_image", ".json"]["count"] == 5
        assert found["not_looked_into", ".json"]["count"] == 3
        assert len(taken(settings)) == 9

    def test_a_pipe_does_not_block(self, settings: Settings, folder: Path) -> None:
        put(folder, a_png=b"x")
        os.mkfifo(folder / "pipe")
        (folder / "dangling").symlink_to(folder / "nowhere")
        assert left_out(settings)["not_a_file", None]["examples"] == ["dangling", "pipe"]

    def test_thousands_of_extensions_are_counted_together(self, settings: Settings, folder: Path) -> None:
        put(folder, a_png=b"x", **{f"x_a{number}b": b"" for number in range(200)})
        groups = list_source(source(), settings.data).notes["not_taken"]
        assert len(groups) < 110
        assert sum(group["count"] for group in groups) == 200


class TestFolders:
    def test_folders_without_images_are_named(self, settings: Settings, folder: Path) -> None:
        put(folder, cat__a_png=b"x", cat__deep__b_png=b"x", notes__x_txt=b"")
        for name in ("dog", "empty/within", "cat/old"):
            (folder / name).mkdir(parents=True)
        group = left_out(settings)["empty_folder", None]
        assert group["count"] == 4
        assert group["message"] == "4 folders hold no image: cat/old, dog, empty, notes."

    def test_what_systems_leave_behind_is_skipped_quietly(self, settings: Settings, folder: Path) -> None:
        names = ["@eaDir", "__MACOSX", ".ipynb_checkpoints", "$RECYCLE.BIN", "System Volume Information", "lost+found"]
        put(folder, a_png=b"x")
        for name in names:
            (folder / name).mkdir()
            (folder / name / "x.png").write_bytes(b"x")
        for name in ("Thumbs.db", ".DS_Store", "desktop.ini", "._a.png"):
            (folder / name).write_bytes(b"x")
        found = list_source(source(), settings.data)
        assert found.table.column("image_path").to_pylist() == ["a.png"]
        assert found.notes["not_taken"] == []
        assert found.notes["source"]["system_entries"] == len(names) + 4

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_a_folder_that_may_not_be_read_is_named(self, settings: Settings, folder: Path) -> None:
        put(folder, a_png=b"x", locked__b_png=b"x")
        (folder / "locked").chmod(0)
        try:
            assert left_out(settings)["folder_unreadable", None]["examples"] == ["locked"]
        finally:
            (folder / "locked").chmod(0o700)

    def test_a_folder_deeper_than_paths_may_be_long_is_named(self, settings: Settings, folder: Path) -> None:
        put(folder, a_png=b"x")
        inner = os.open(folder, os.O_RDONLY)
        for _ in range(25):
            os.mkdir("d" * 200, dir_fd=inner)
            inner, outer = os.open("d" * 200, os.O_RDONLY, dir_fd=inner), inner
            os.close(outer)
        os.close(inner)
        assert taken(settings) == ["a.png"]
        assert left_out(settings)["folder_unreadable", None]["count"] == 1


class TestLinks:
    def test_folders_outside_the_root_are_named(self, settings: Settings, folder: Path, tmp_path: Path) -> None:
        put(tmp_path / "private", a_png=b"x")
        put(folder, in__b_png=b"x")
        (folder / "out").symlink_to(tmp_path / "private")
        (folder / "notes").symlink_to("/etc/hostname")
        group = left_out(settings)["link_leaves_root", None]
        assert group["examples"] == ["notes", "out"]
        assert "lead out of the data root" in group["message"]

    def test_the_user_may_ask_to_follow_them(self, settings: Settings, folder: Path, tmp_path: Path) -> None:
        put(tmp_path / "private", a_png=b"x", sub__b_png=b"x")
        (folder / "out").symlink_to(tmp_path / "private")
        with pytest.raises(NoImages):
            list_source(source(), settings.data)
        (folder / "c.png").symlink_to(tmp_path / "private/a.png")
        check(source(), settings.data, follow_links=True)
        assert taken(settings, follow_links=True) == ["c.png", "out/a.png", "out/sub/b.png"]

    def test_a_link_to_a_folder_above_the_source_is_not_followed(self, settings: Settings, folder: Path) -> None:
        put(settings.data, other__a_png=b"x", set__cat__b_png=b"x")
        (folder / "cat/up").symlink_to(settings.data)
        assert taken(settings) == ["cat/b.png"]
        assert left_out(settings)["link_to_parent", None]["examples"] == ["cat/up"]

    def test_one_folder_is_taken_once_and_its_real_path_wins(self, settings: Settings, folder: Path) -> None:
        put(settings.data, elsewhere__e_png=b"x", set__z__a_png=b"x")
        (folder / "a").symlink_to(folder / "z")
        for name in ("c", "b", "d"):
            (folder / name).symlink_to(settings.data / "elsewhere")
        assert taken(settings) == ["b/e.png", "z/a.png"]
        assert left_out(settings)["link_repeats", None]["examples"] == ["a", "c", "d"]

    def test_folders_linked_to_each_other_end(self, settings: Settings, folder: Path) -> None:
        names = [f"{number:02d}" for number in range(12)]
        for name in names:
            put(settings.data / "web" / name, x_png=b"x")
        for name in names:
            for other in names:
                (settings.data / "web" / name / f"to-{other}").symlink_to(settings.data / "web" / other)
        (folder / "in").symlink_to(settings.data / "web" / "00")
        assert len(taken(settings)) == len(names)

    def test_the_check_of_a_request_is_bounded(
        self, settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("extractor.sources.folder.CHECK_BUDGET", folder_module.Budget(entries=10, seconds=60))
        put(folder, **{f"x{number}_txt": b"" for number in range(30)})
        looked: list[bytes] = []
        monkeypatch.setattr(folder_module, "sniff", lambda head: looked.append(head) or sniff(head))
        check(source(), settings.data)  # What it does not come to is left to the job.
        assert len(looked) <= 10
        with pytest.raises(NoImages):
            list_source(source(), settings.data)

    def test_a_long_walk_says_that_it_lives(
        self, settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(folder_module, "PROGRESS_ENTRIES", 4)
        put(folder, **{f"x{number}_png": b"" for number in range(9)})
        seen: list[int] = []
        list_source(source(), settings.data, alive=seen.append)
        assert seen == [4, 8]


class TestNames:
    def test_no_name_stops_a_job(self, settings: Settings, folder: Path) -> None:
        names = [
            b"\xff.jpg",
            b"\\udcff.jpg",
            b"\\xff.jpg",
            b"\\\\xff.jpg",
            b"\xfe\\udcff.jpg",
            b"\\udcfe\xff.jpg",
            b"\xed\xa0\x80.jpg",
            b"line\nbreak.jpg",
            b" leading.jpg",
            b"trailing .jpg",
            b"tab\t\x01\x7f.jpg",
            b"a" * 251 + b".jpg",
            unicodedata.normalize("NFC", "é.jpg").encode(),
            unicodedata.normalize("NFD", "é.jpg").encode(),
            "日本/🐟 \u202e.jpg".encode(),
        ]
        for name in names:
            path = Path(os.fsdecode(os.fsencode(folder) + b"/" + name))
            try:
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(b"x")
            except OSError:
                pytest.skip("the file system takes only UTF-8")
        table = list_source(source(), settings.data).table
        assert table.num_rows == len(names)
        assert len(set(table.column("image_id").to_pylist())) == len(names)
        listed = set(table.column("image_path").to_pylist())
        for name in names:
            if name.isascii() or (b"\xed\xa0" not in name and name.decode("utf-8", "ignore").encode() == name):
                assert name.decode() in listed
