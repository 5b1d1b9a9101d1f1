"""`GET /clusterings/{id}/export`: a clustering as the files that other tools import."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Annotated, Final, Literal, cast

from fastapi import Query, Response
from fastapi.responses import StreamingResponse
from shoal.errors import Forbidden, InvalidRequest
from shoal.keys import Caller, Scope
from shoal.web import SettingsDep, StoreDep
from shoal.web.auth import CallerDep
from shoal.web.pools import EXPORTS
from shoal.web.problems import problem_responses
from shoal.web.route import router as make_router
from shoal.web.tables import MEDIA_TYPES, TableFormat, table_response

from clusterer.api.parameters import ClusteringId, Scored
from clusterer.results.exports import deleted_headers, named_schema
from clusterer.results.imagefolder import ImageFiles, tar_pieces
from clusterer.results.named import Named
from clusterer.results.read import scored_set
from clusterer.results.tools import Export, Tool, pieces_of, safe_texts, table_batches

JSON: Final = "application/json"
XML: Final = "application/xml"
TAR: Final = "application/x-tar"
MEDIA: Final[dict[str, tuple[str, str]]] = {
    "fiftyone": (JSON, "json"),
    "labelstudio": (JSON, "json"),
    "labelstudio-config": (XML, "xml"),
    "cvat": (XML, "xml"),
    "coco": (JSON, "json"),
    "imagefolder": (TAR, "tar"),
}
"""Media type and extension of each tool's file."""
Format = Literal[
    "fiftyone",
    "labelstudio",
    "labelstudio-config",
    "cvat",
    "coco",
    "imagefolder",
    "csv",
    "jsonl",
    "parquet",
    "arrow",
]

router = make_router()


@router.get(
    "/clusterings/{clustering_id}/export",
    tags=["names"],
    response_class=StreamingResponse,
    responses={
        200: {"description": "The file.", "content": {media: {} for media in (JSON, XML, TAR, *MEDIA_TYPES.values())}},
        **problem_responses(404, 422),
    },
)
def get_export(
    clustering_id: ClusteringId,
    store: StoreDep,
    settings: SettingsDep,
    caller: CallerDep,
    format: Annotated[Format, Query(description="The tool, or the format of a table.")],  # noqa: A002
    embeddings: Scored = None,
    root: Annotated[
        str,
        Query(
            max_length=4096,
            pattern=r"^[^\x00-\x1f\x7f]*$",
            description="What comes before each path: the folder of the images, or an address. Not with `imagefolder`.",
        ),
    ] = "",
) -> Response:
    """Download the class of every image for another tool, or as a table, with names, merges and moves applied.

    The class is the name of the cluster that the image is in after moves and merges, or `cluster 7` without a name.
    Tables have both `cluster`, the cluster that k-means found, and `merged_cluster`. Cells of a CSV file that a
    spreadsheet would compute have a `'` before them.

    If the embeddings were deleted, tables have no paths, as the header `Shoal-Deleted-Embeddings` says, and the other
    formats answer 404.

    `imagefolder` is a tar archive of the images themselves, a folder a class: those that are files below the data root,
    or of an upload of the same key, as they were embedded. Its last member `left-out.jsonl` lists the others.
    With API keys, it needs scope `submit`.
    """
    clustering = store.clustering(clustering_id)
    chosen = scored_set(clustering, embeddings)
    export = Export(store, clustering, Named.read(store, clustering), chosen, root)
    if format not in MEDIA:
        kind = cast(TableFormat, format)
        batches = table_batches(export)
        batches = safe_texts(batches) if kind == "csv" else batches
        headers = deleted_headers(store, clustering, [chosen])
        return table_response(batches, named_schema(clustering), kind, f"{clustering_id}-export", headers)
    store.embeddings(chosen)  # Without its images there is nothing to tell a tool.
    media, extension = MEDIA[format]
    name = f'attachment; filename="{clustering_id}-{format}.{extension}"'
    if format == "imagefolder":
        pieces = archive_of(export, settings.data, caller)
    else:
        pieces = pieces_of(export, cast(Tool, format))
    return StreamingResponse(EXPORTS.iterate(pieces), media_type=media, headers={"Content-Disposition": name})


def archive_of(export: Export, data: Path, caller: Caller) -> Iterator[bytes]:
    """The archive of the images; what is wrong with it is raised at once."""
    if not caller.scope.includes(Scope.SUBMIT):
        raise Forbidden(
            f"This API key has scope `{caller.scope}`; the images themselves need scope `{Scope.SUBMIT}`.",
            scope=Scope.SUBMIT,
        )
    if export.root:
        raise InvalidRequest("The paths in an archive have no `root`: leave it out.", field="root")
    embeddings = export.store.embeddings(export.embeddings)
    pieces = tar_pieces(export, ImageFiles.of(export.store, embeddings, data, caller.key_id))
    return chain([next(pieces)], pieces)
