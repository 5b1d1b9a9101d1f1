"""Uploads as sources: a folder below the store, in place of one below the data root."""

from __future__ import annotations

from shoal.schemas import ExtractRequest, ImageSource, UploadSource
from shoal.settings import Settings
from shoal.store import Store
from shoal.store.uploads import Upload, Uploads, require_complete


def settings_for(source: ImageSource, settings: Settings, store: Store) -> Settings:
    """``settings`` whose data root is the upload, if ``source`` is one: every path of the source is below it.

    Raises
    ------
    UploadNotFound, UploadIncomplete
        The upload is gone, or parts of it are missing.
    """
    if not isinstance(source, UploadSource):
        return settings
    return _rooted(Uploads(store.layout).complete(source.upload), settings)


def settings_of_owner(request: ExtractRequest, settings: Settings, uploads: Uploads, owner: str | None) -> Settings:
    """`settings_for` a request that ``owner`` sends.

    Raises
    ------
    UploadNotFound
        The upload is another key's, or gone.
    UploadIncomplete
    """
    if not isinstance(request.images, UploadSource):
        return settings
    return _rooted(require_complete(uploads.get(request.images.upload, owner)), settings)


def _rooted(upload: Upload, settings: Settings) -> Settings:
    upload.touch()
    # Nothing in it is a symlink; nothing else is to be reached from it.
    return settings.model_copy(update={"data": upload.layout.images, "follow_links": False})


def plan_path(source: ImageSource, path: str) -> str:
    """The path that a plan records: ``upload:<id>`` and the path within, or ``path``."""
    if not isinstance(source, UploadSource):
        return path
    return uploaded_path(source.upload, path)


def uploaded_path(upload_id: str, path: str) -> str:
    """A path within an upload as a plan records it."""
    return f"upload:{upload_id}" if path == "." else f"upload:{upload_id}/{path}"
