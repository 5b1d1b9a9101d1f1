"""What every kind of source must do; a kind's tests subclass `SourceContract` and say how its images are laid out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from extractor import pipeline
from extractor.images.located import LostImage, read_located
from extractor.remote.allowed import Allowed
from extractor.remote.fetcher import Fetcher
from extractor.sources import listing
from extractor.sources.listing import Listing, list_source
from extractor.sources.reading import located_images
from extractor.sources.source import Place, Row
from PIL import Image
from shoal.errors import ImageInvalid, NoImages, SourceInvalid
from shoal.jobs.child import JobContext
from shoal.schemas import ImageSource
from shoal.settings import Settings
from shoal.store import Store, listing_sha256

LOST = {"image_changed", "image_removed"}
NAMES = ("cat/1.png", "cat/2.png", "cat/3.jpg", "dog/1.png", "dog/2.png", "dog/3.png")


def picture(seed: int, ending: str = "png") -> bytes:
    """An image file that no other seed gives."""
    values = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(values).save(file, "JPEG" if ending == "jpg" else "PNG")
    return file.getvalue()


def pictures(names: tuple[str, ...] = NAMES, first: int = 0) -> dict[str, bytes]:
    """A picture for each name."""
    return {name: picture(seed, name[-3:]) for seed, name in enumerate(names, first)}


def listed(settings: Settings, **fields: Any) -> Listing:
    """The listing of a source below the data root."""
    return list_source(ImageSource(**fields), settings.data, allowed=Allowed.of(settings))


def column(found: Listing, name: str) -> list[Any]:
    """A column of a listing."""
    values: list[Any] = found.table.column(name).to_pylist()
    return values


def read(
    settings: Settings, found: Listing, fields: dict[str, Any], start: int = 0, stop: int | None = None
) -> list[Any]:
    """The bytes of each image of a listing, as a decoder reads them, or the code of its error."""
    return read_at(settings, place_of(settings, fields), found, start, stop)


def place_of(settings: Settings, fields: dict[str, Any]) -> Place:
    """Where a source lies."""
    return Place.of(ImageSource(**fields), settings.data, follow_links=False)


def read_at(settings: Settings, place: Place, found: Listing, start: int = 0, stop: int | None = None) -> list[Any]:
    """`read`, for a source that may not exist any more."""
    table = found.table.slice(start, None if stop is None else stop - start)
    columns = (table.column(name).to_pylist() for name in ("image_path", "stamp"))
    contents: list[Any] = []
    with Fetcher.of(settings) as fetcher:
        images = [*located_images((Row(*row) for row in zip(*columns, strict=True)), place, fetcher)]
    for image in images:
        if image is None:
            continue
        if isinstance(image, LostImage):
            contents.append(image.code)
            continue
        try:
            contents.append(read_located(image, place.links_root, place.folder)[0])
        except ImageInvalid as error:
            contents.append(error.code)
    return contents


class SourceContract:
    """Subclasses lay `pictures` out as their kind has them."""

    labelled = True
    """Whether the layout gives the first folder's name as the label."""
    writes_a_folder = False
    """Whether removing one image leaves the others readable."""

    removed = "image_removed"
    """The code of an image that is not there any more."""

    def build(self, data: Path, images: dict[str, bytes]) -> dict[str, Any]:
        """Write ``images``, by their names, below the data root; the fields of ``images`` in a request."""
        raise NotImplementedError

    def containers(self, data: Path) -> list[Path]:
        """The files that hold the images."""
        return [path for path in sorted(data.rglob("*")) if path.is_file()]

    def empty(self, data: Path) -> dict[str, Any]:
        """The same without an image."""
        return self.build(data, {})

    @pytest.fixture
    def images(self) -> dict[str, bytes]:
        return pictures()

    @pytest.fixture
    def fields(self, settings: Settings, images: dict[str, bytes]) -> dict[str, Any]:
        return self.build(settings.data, images)

    def test_it_lists_every_image_once_with_its_label(self, settings: Settings, fields: dict[str, Any]) -> None:
        found = listed(settings, **fields)
        assert found.table.num_rows == len(NAMES)
        assert len(set(column(found, "image_id"))) == len(NAMES)
        if self.labelled:
            assert sorted(column(found, "label")) == ["cat"] * 3 + ["dog"] * 3

    def test_every_image_is_read_as_it_was_written(
        self, settings: Settings, fields: dict[str, Any], images: dict[str, bytes]
    ) -> None:
        found = listed(settings, **fields)
        contents = read(settings, found, fields)
        assert sorted(contents) == sorted(images.values())
        if self.labelled:
            labels = {content: name.split("/")[0] for name, content in images.items()}
            assert [labels[content] for content in contents] == column(found, "label")

    def test_the_listing_is_stable(self, settings: Settings, fields: dict[str, Any]) -> None:
        first, second = listed(settings, **fields), listed(settings, **fields)
        assert listing_sha256(first.table) == listing_sha256(second.table)

    def test_any_range_of_rows_is_read_by_itself(self, settings: Settings, fields: dict[str, Any]) -> None:
        found = listed(settings, **fields)
        contents = read(settings, found, fields)
        for start in range(len(NAMES)):
            assert read(settings, found, fields, start, start + 2) == contents[start : start + 2]

    def test_what_changed_since_is_an_error(self, settings: Settings, images: dict[str, bytes]) -> None:
        fields = self.build(settings.data, images)
        found = listed(settings, **fields)
        before = read(settings, found, fields)
        self.build(settings.data, {**pictures(first=100), "dog/9.png": picture(9)})
        after = read(settings, found, fields)
        assert set(after) <= LOST
        assert len(after) == len(before)
        again = listed(settings, **fields)
        assert listing_sha256(again.table) != listing_sha256(found.table)

    def test_what_was_removed_since_is_an_error(self, settings: Settings, fields: dict[str, Any]) -> None:
        found = listed(settings, **fields)
        place, whole = place_of(settings, fields), read(settings, found, fields)
        path = next(path for path in self.containers(settings.data) if path.suffix not in {".csv", ".txt", ".jsonl"})
        path.unlink()
        after = read_at(settings, place, found)
        assert self.removed in after
        assert all(now in (self.removed, before) for now, before in zip(after, whole, strict=True))

    def test_the_check_of_a_request_passes_it(self, settings: Settings, fields: dict[str, Any]) -> None:
        listing.check(ImageSource(**fields), settings.data, allowed=Allowed.of(settings), deadline=None)

    def test_no_image_is_refused_at_once(self, settings: Settings) -> None:
        fields = self.empty(settings.data)
        with pytest.raises((NoImages, SourceInvalid)):
            listing.check(ImageSource(**fields), settings.data, deadline=None)
        with pytest.raises((NoImages, SourceInvalid)):
            listed(settings, **fields)

    def test_include_exclude_and_limit(self, settings: Settings, fields: dict[str, Any]) -> None:
        paths = column(listed(settings, **fields), "image_path")
        assert column(listed(settings, **fields, exclude=[paths[0]]), "image_path") == paths[1:]
        assert column(listed(settings, **fields, include=[paths[0], paths[-1]]), "image_path") == [paths[0], paths[-1]]
        assert column(listed(settings, **fields, limit=3), "image_path") == paths[::2]
        with pytest.raises(NoImages):
            listed(settings, **fields, include=["nothing-like-it"])

    def test_the_requests_split_and_labels_win(self, settings: Settings, fields: dict[str, Any]) -> None:
        found = listed(settings, **{**fields, "split": "mine", "labels": "none"})
        assert set(column(found, "split")) == {"mine"}
        assert set(column(found, "label")) == {None}

    def test_a_job_embeds_it(
        self, settings: Settings, fields: dict[str, Any], images: dict[str, bytes], job: Callable[..., JobContext]
    ) -> None:
        result = pipeline.extract(job(images=fields), settings)
        assert (result["rows"], result["failed"]) == (len(NAMES), 0)
        embeddings = Store(settings.store).embeddings(str(result["embeddings"]))
        metadata = embeddings.metadata(["sha256", "label"])
        assert sorted(metadata.column("sha256").to_pylist()) == sorted(
            hashlib.sha256(content).hexdigest() for content in images.values()
        )
        assert pipeline.extract(job(images=fields), settings)["embeddings"] == result["embeddings"]
