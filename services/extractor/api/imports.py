"""Import of uploaded embeddings over HTTP."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import Response
from shoal.errors import JsonValue
from shoal.schemas import ImportRequest, Job
from shoal.store import EmbeddingSet
from shoal.store.uploads import require_complete
from shoal.web import IdempotencyKey, SubmitterDep, accepted
from shoal.web.problems import problem_responses
from shoal.web.route import router as make_router

from extractor.api.uploads import ReceiverDep
from extractor.jobs import IMPORT
from extractor.uploads.pieces import check_paths

router = make_router(tags=["embeddings"])


@router.post("/embeddings", status_code=202, responses=problem_responses(404, 409, 422, 503))
def import_embeddings(
    body: ImportRequest,
    response: Response,
    submitter: SubmitterDep,
    receiver: ReceiverDep,
    key: IdempotencyKey = None,
) -> Job:
    """Start a job that imports uploaded embeddings. Its result has the id, `rows` and `dim`.

    A file with several sets becomes several embeddings, whose ids are `sets` of the result. Upload files larger than
    a part in pieces named `<file>.piece-000000-of-000012`, each a file of the upload.
    """

    def check() -> None:
        upload = require_complete(receiver.uploads.get(body.upload, submitter.caller.key_id, "upload"), "upload")
        check_paths(upload, body)
        upload.touch()

    return accepted(submitter.submit(IMPORT, body, key, check), response)


def may_fill(request: Mapping[str, JsonValue], embeddings: EmbeddingSet) -> bool:
    """Whether a job of this request may be writing the embeddings."""
    plan = embeddings.plan
    name = str(request.get("name"))
    named = plan.name == name or plan.name.startswith(f"{name}-")
    return not embeddings.complete and plan.source.kind == "import" and named
