"""Which label belongs to which image."""

from __future__ import annotations

import pytest
from shoal.errors import LabelsInvalid
from shoal.labels import Columns, Joined, join, read_labels
from shoal.userfiles import UserFile

from tests.shared.labels.conftest import MakeFile


def joined(file: UserFile, paths: list[str] | None, rows: int | None = None, *columns: str) -> Joined:
    asked = Columns(*columns)
    return join(read_labels(file, asked), asked, paths, len(paths or []) if rows is None else rows)


def test_the_order_of_the_rows_does_not_matter(make_file: MakeFile) -> None:
    file = make_file("y.csv", "filename,label\nc.png,C\nelsewhere.png,x\na.png,A\nb.png,B\n")
    assert joined(file, ["a.png", "b.png", "c.png"]).labels == ["A", "B", "C"]


@pytest.mark.parametrize(
    "written", [" dir/1.png", "dir/1.png", "./ dir/1.png", '" dir/1.png"', "\\ dir/1.png".replace("\\ ", ".\\")]
)
def test_a_path_is_found_although_it_is_written_otherwise(make_file: MakeFile, written: str) -> None:
    assert joined(make_file("y.csv", f"path,label\n{written},A\n"), [" dir/1.png"]).labels == ["A"]


def test_a_path_as_it_stands_goes_before_one_that_is_alike(make_file: MakeFile) -> None:
    file = make_file("y.csv", "path,label\n dir/1.png,A\ndir/1.png,B\n")
    assert joined(file, ["dir/1.png", " dir/1.png"]).labels == ["B", "A"]


def test_a_row_of_one_image_is_not_taken_for_another(make_file: MakeFile) -> None:
    with pytest.raises(LabelsInvalid, match=r"1 of 2 images, such as ' dir/1\.png'"):
        joined(make_file("y.csv", "path,label\ndir/1.png,B\n"), ["dir/1.png", " dir/1.png"])


@pytest.mark.parametrize("images", [["dir/1.png", " dir/1.png"], [" dir/1.png", "  dir/1.png"]])
def test_one_row_is_not_taken_for_two_images(make_file: MakeFile, images: list[str]) -> None:
    with pytest.raises(LabelsInvalid, match="no row for 2 of 2 images"):
        joined(make_file("y.csv", "path,label\n./dir/1.png,B\n"), images)


@pytest.mark.parametrize("start", ["/data/", "C:\\", "https://host/x/"])
def test_a_folder_may_start_with_a_blank_below_another(make_file: MakeFile, start: str) -> None:
    file = make_file("y.csv", f"path,label\n{start}dogs/1.png,A\n{start} cats/1.png,B\n")
    assert joined(file, [" cats/1.png", "dogs/1.png"]).labels == ["B", "A"]
    file = make_file("y.csv", "path,label\ndogs/1.png,A\n cats/1.png,B\n")
    assert joined(file, ["all/ cats/1.png", "all/dogs/1.png"]).labels == ["B", "A"]


def test_the_same_label_twice_is_one_label(make_file: MakeFile) -> None:
    file = make_file("y.csv", "path,label\na.png,A\na.png,A \n./a.png,A\n")
    assert joined(file, ["a.png"]).labels == ["A"]


@pytest.mark.parametrize("second", ["a.png", "./a.png", "  a.png"])
def test_different_labels_of_one_image_name_both_rows(make_file: MakeFile, second: str) -> None:
    file = make_file("y.csv", f"path,label\na.png,A\n\n{second},B\n")
    with pytest.raises(LabelsInvalid, match=r"'a\.png': its label is 'A' in line 2 and 'B' in line 4"):
        joined(file, ["a.png"])


def test_an_image_without_a_row_is_named_beside_a_path_of_the_file(make_file: MakeFile) -> None:
    file = make_file("y.csv", "path,label\nx/b.png,A\nx/c.png,A\n")
    with pytest.raises(LabelsInvalid, match=r"2 of 2 images, such as 'a\.png', 'y/b\.png'.*rows such as 'x/b\.png'"):
        joined(file, ["a.png", "y/b.png"])


class TestEndsOfPaths:
    @pytest.mark.parametrize(
        ("rows", "images"),
        [
            (["1.png", "2.png"], ["dogs/1.png", "cats/2.png"]),
            (["/data/set/dogs/1.png", "/data/set/cats/1.png"], ["dogs/1.png", "cats/1.png"]),
            (["val/1.png", "val/2.png", "val/3.png"], ["1.png", "2.png"]),
            (["dogs/1.png", "2.png"], ["set/dogs/1.png", "set/2.png"]),
        ],
    )
    def test_they_join_where_nothing_else_can_be_meant_and_that_is_said(
        self, make_file: MakeFile, rows: list[str], images: list[str]
    ) -> None:
        file = make_file("y.csv", "path,label\n" + "".join(f"{row},L{at}\n" for at, row in enumerate(rows)))
        found = joined(file, images)
        assert found.labels == ["L0", "L1"]
        assert found.note is not None
        assert f"{rows[0]!r} for {images[0]!r}" in found.note

    @pytest.mark.parametrize(
        ("rows", "images"),
        [
            (["1.png", "2.png"], ["dogs/1.png", "cats/1.png"]),
            (["dogs/1.png", "dogs/2.png"], ["cats/1.png", "cats/2.png"]),
            (["x/1.png", "y/1.png", "y/2.png"], ["1.png", "2.png"]),
            (["x/1.png", "1.png"], ["y/x/1.png", "2.png"]),
            (["1.png"], ["dogs/1.png", "dogs/2.png"]),
        ],
    )
    def test_nothing_is_guessed(self, make_file: MakeFile, rows: list[str], images: list[str]) -> None:
        file = make_file("y.csv", "path,label\n" + "".join(f"{row},L{at}\n" for at, row in enumerate(rows)))
        with pytest.raises(LabelsInvalid, match="has no row for 2 of 2 images"):
            joined(file, images)

    def test_not_where_some_paths_are_found_as_they_stand(self, make_file: MakeFile) -> None:
        file = make_file("y.csv", "path,label\na/1.png,A\n2.png,B\n")
        with pytest.raises(LabelsInvalid, match="1 of 2 images"):
            joined(file, ["a/1.png", "a/2.png"])


class TestOrder:
    def test_it_joins_where_there_is_no_path_anywhere(self, make_file: MakeFile) -> None:
        assert joined(make_file("y.txt", "A\nB\n"), None, 2).labels == ["A", "B"]

    @pytest.mark.parametrize("rows", [1, 4])
    def test_the_numbers_must_be_equal(self, make_file: MakeFile, rows: int) -> None:
        with pytest.raises(LabelsInvalid, match=rf"has 2 labels for {rows} embeddings.*first line is its header"):
            joined(make_file("y.csv", "breed\nA\nB\n"), None, rows)

    def test_blank_lines_at_the_end_are_labels_only_where_rows_are_left(self, make_file: MakeFile) -> None:
        file = make_file("y.txt", "A\n\nB\n\n\n")
        assert joined(file, None, 3).labels == ["A", None, "B"]
        assert joined(file, None, 5).labels == ["A", None, "B", None, None]

    def test_paths_on_one_side_alone_are_an_error_with_one_of_them(self, make_file: MakeFile) -> None:
        with pytest.raises(LabelsInvalid, match=r"`filename`, such as 'b\.png'.*join by order with `FILE::label`"):
            joined(make_file("y.csv", "filename,label\nb.png,B\na.png,A\n"), None, 2)
        with pytest.raises(LabelsInvalid, match=r"no column of paths among 'id', 'label', .* such as 'a\.png'"):
            joined(make_file("y.csv", "id,label\n1,B\n2,A\n"), ["a.png", "b.png"])

    def test_it_joins_where_it_is_asked_for(self, make_file: MakeFile) -> None:
        file = make_file("y.csv", "filename,label\nb.png,B\na.png,A\n")
        assert joined(file, None, 2, "", "label").labels == ["B", "A"]
        assert joined(file, ["a.png", "b.png"], 2, "").labels == ["B", "A"]
