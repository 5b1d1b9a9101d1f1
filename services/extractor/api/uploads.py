"""Uploads: images of people whose folders the service does not see, sent whole or part by part."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, cast

from fastapi import Depends, Path, Request, Response
from pydantic import BaseModel, Field
from shoal.deadline import Deadline
from shoal.errors import NoImages, UploadInUse
from shoal.gc import texts_of
from shoal.keys import Caller
from shoal.schemas import Id
from shoal.settings import Settings
from shoal.store.uploads import MAX_PARTS, Upload
from shoal.web import DeadlineDep, IdempotencyKey, QueueDep, SettingsDep
from shoal.web.auth import CallerDep, refuse_other_sites
from shoal.web.pools import UNPACK, WORK
from shoal.web.problems import problem_responses
from shoal.web.route import CLIENT_CLOSED, Handler, Route, check_query, query_names
from shoal.web.route import router as make_router
from shoal.web.spool import Spooled, spooled
from starlette.requests import ClientDisconnect

from extractor.uploads.receive import Receiver
from extractor.uploads.unpack import FORM, TAR, ZIP, kind_of

STREAMED: Final = re.compile(r"POST /uploads|PUT /uploads/[^/]+/parts/[^/]+")
"""The requests whose bodies go to the disk as they arrive."""
UPLOAD_BODY: Final = {
    "requestBody": {
        "description": "A tar, a zip, or a form with several files, each with a relative path as its `filename`. At "
        "most `SHOAL_MAX_PART_BYTES`, 256 MiB by default.",
        "content": {
            kind: {"schema": {"type": "string", "format": "binary", "maxLength": 2**40}} for kind in (TAR, ZIP, FORM)
        },
    }
}
UploadId = Annotated[Id, Path(description="Id of the upload.")]
PartNumber = Annotated[int, Path(ge=0, lt=MAX_PARTS, description="Number of the part, which the client chooses.")]


class Part(BaseModel):
    """A part that has arrived."""

    part: int
    images: int = Field(description="Number of its files.")
    bytes: int = Field(description="Size of its files.")
    sha256: str = Field(description="SHA-256 of its body as it was sent.")


class UploadState(BaseModel):
    """How much of an upload is there."""

    upload: str = Field(description="Id of the upload.")
    images: int = Field(description="Number of its files.")
    bytes: int = Field(description="Size of its files.")
    complete: bool = Field(description="Whether no part may follow; only a complete upload can be embedded.")
    created_at: datetime
    expires_at: datetime = Field(description="From when it may be removed, unless it is used until then.")


class UploadParts(UploadState):
    """An upload with its parts."""

    parts: list[Part]


class UploadList(BaseModel):
    """The uploads of one API key."""

    uploads: list[UploadState]


class UploadRoute(Route):
    """A route whose body goes to a file before its function runs; what cannot be taken is refused before it arrives."""

    def get_route_handler(self) -> Handler:
        """The function that answers a request."""
        handler = super().get_route_handler()
        known = query_names(self.dependant)

        async def handle(request: Request) -> Response:
            check_query(request, known)
            refuse_other_sites(request.scope)
            if not has_body(request) and request.method == "POST":
                return await handler(request)
            try:
                return await self._received(request, handler)
            except ClientDisconnect:
                return Response(status_code=CLIENT_CLOSED)

        return handle

    async def _received(self, request: Request, handler: Handler) -> Response:
        receiver, settings = receiver_of(request), cast(Settings, request.app.state.settings)
        owner = cast(Caller, request.state.caller).key_id
        with receiver.arriving(owner):
            await WORK.run(admit, request, receiver, owner)
            folder = receiver.store.layout.temporary
            async with spooled(
                request, folder, most=settings.max_part_bytes, seconds=settings.body_timeout_s
            ) as request.state.spooled:
                return await handler(request)


streaming = make_router(pool=UNPACK, base=UploadRoute, tags=["uploads"])
router = make_router(tags=["uploads"])


def has_body(request: Request) -> bool:
    """Whether a request announces a body."""
    length = request.headers.get("content-length", "0")
    return "transfer-encoding" in request.headers or length.strip("0") != ""


def admit(request: Request, receiver: Receiver, owner: str | None) -> None:
    """Refuse a body that would be refused anyway, before it arrives."""
    upload_id = request.path_params.get("upload_id")
    if upload_id is not None:
        upload, number = receiver.uploads.get(upload_id, owner), request.path_params["part"]
        if number.isascii() and number.isdigit() and len(number) < 10:
            receiver.check_open(upload, int(number))
    kind_of(request.headers.get("content-type", ""))
    length = request.headers.get("content-length", "0")
    receiver.room(owner, int(length) if length.isdigit() else 0)


def receiver_of(request: Request) -> Receiver:
    """What all requests with uploads share."""
    return cast(Receiver, request.app.state.uploads)


async def _receiver(request: Request) -> Receiver:
    return receiver_of(request)


async def _spooled(request: Request) -> Spooled | None:
    return cast(Spooled | None, getattr(request.state, "spooled", None))


async def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "")


ReceiverDep = Annotated[Receiver, Depends(_receiver)]
SpooledDep = Annotated[Spooled | None, Depends(_spooled)]
ContentType = Annotated[str, Depends(_content_type)]


@streaming.post(
    "/uploads",
    status_code=201,
    response_model=UploadState,
    responses=problem_responses(409, 422, 507),
    openapi_extra=UPLOAD_BODY,
)
def create_upload(
    receiver: ReceiverDep,
    caller: CallerDep,
    settings: SettingsDep,
    deadline: DeadlineDep,
    body: SpooledDep,
    content_type: ContentType,
    response: Response,
    key: IdempotencyKey = None,
) -> UploadState:
    """Upload images. With a body the upload is complete at once; without one, send parts, then complete it.

    Use it as `images: {"upload": <id>}` of `POST /extract`. With an `Idempotency-Key`, the upload that the first
    request with the key created is continued.
    """
    receiver.room(caller.key_id)
    upload, created = receiver.uploads.create(caller.key_id, key)
    if body is not None and body.bytes:
        _fill(receiver, upload, caller, body, content_type, deadline, created)
    response.status_code = 201 if created else 200
    response.headers["Location"] = f"/uploads/{upload.id}"
    return state_of(receiver.uploads.get(upload.id, caller.key_id), settings)


def _fill(
    receiver: Receiver,
    upload: Upload,
    caller: Caller,
    body: Spooled,
    content_type: str,
    deadline: Deadline,
    created: bool,
) -> None:
    """Make a body the only part of an upload, which is complete then."""
    try:
        receiver.add(upload.id, caller.key_id, 0, body, content_type, deadline)
        _complete(receiver, upload.id, caller)
    except BaseException:
        if created:
            receiver.uploads.delete(upload)
        raise


@streaming.put(
    "/uploads/{upload_id}/parts/{part}",
    response_model=Part,
    responses=problem_responses(404, 409, 422, 507),
    openapi_extra=UPLOAD_BODY,
)
def put_part(
    upload_id: UploadId,
    part: PartNumber,
    receiver: ReceiverDep,
    caller: CallerDep,
    deadline: DeadlineDep,
    body: SpooledDep,
    content_type: ContentType,
) -> Part:
    """Add a part to an upload: an archive or a form of its own, whose files are unpacked at once.

    Sending the same part again changes nothing, so that a client repeats what a broken connection left open.
    """
    if body is None:  # Every PUT has been spooled.
        raise AssertionError("no body")
    made = receiver.add(upload_id, caller.key_id, part, body, content_type, deadline)
    return Part(**made.model_dump())


@router.post(
    "/uploads/{upload_id}/complete", response_model=UploadState, responses=problem_responses(404, 409, 422, 507)
)
def complete_upload(
    upload_id: UploadId, receiver: ReceiverDep, caller: CallerDep, settings: SettingsDep
) -> UploadState:
    """Complete an upload: no part may follow, and its images can be embedded."""
    return state_of(_complete(receiver, upload_id, caller), settings)


def _complete(receiver: Receiver, upload_id: str, caller: Caller) -> Upload:
    upload = receiver.uploads.get(upload_id, caller.key_id)
    if not upload.images:
        raise NoImages(f"The upload {upload_id} has no files: send them as parts first.", field="upload")
    if not upload.complete:
        upload.finish()
    return upload


@router.get("/uploads", response_model=UploadList)
def list_uploads(receiver: ReceiverDep, caller: CallerDep, settings: SettingsDep) -> UploadList:
    """List the uploads of this API key, the one used last first."""
    return UploadList(uploads=[state_of(each, settings) for each in receiver.uploads.of(caller.key_id)])


@router.get("/uploads/{upload_id}", response_model=UploadParts, responses=problem_responses(404, 422))
def get_upload(upload_id: UploadId, receiver: ReceiverDep, caller: CallerDep, settings: SettingsDep) -> UploadParts:
    """Return an upload and the parts that have arrived, from which a client sees what to send again."""
    upload = receiver.uploads.get(upload_id, caller.key_id)
    parts = [Part(**upload.parts[number].model_dump()) for number in sorted(upload.parts)]
    return UploadParts(**state_of(upload, settings).model_dump(), parts=parts)


@router.delete("/uploads/{upload_id}", status_code=204, responses=problem_responses(404, 409, 422, 503))
def delete_upload(upload_id: UploadId, receiver: ReceiverDep, caller: CallerDep, queue: QueueDep) -> None:
    """Delete an upload that no queued or running job uses. Embeddings of its images stay."""
    upload = receiver.uploads.get(upload_id, caller.key_id)
    for job in queue.unfinished():
        if upload_id in texts_of(job.request):
            raise UploadInUse(
                f"Job {job.id} ({job.kind}, {job.state}) uses {upload_id}. Wait for it, or cancel it with "
                f"`DELETE /jobs/{job.id}`.",
                job=job.id,
            )
    receiver.uploads.delete(upload)


def state_of(upload: Upload, settings: Settings) -> UploadState:
    """An upload as it is answered."""
    return UploadState(
        upload=upload.id,
        images=upload.images,
        bytes=upload.bytes,
        complete=upload.complete,
        created_at=upload.record.created_at,
        expires_at=datetime.fromtimestamp(upload.used_at, UTC) + timedelta(days=settings.upload_days),
    )
