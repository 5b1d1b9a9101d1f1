"""Every error that Shoal reports, as one tree.

::

    ShoalError                       internal_error            500
    ├── InvalidRequest               invalid_request           422   the request can never work as sent
    │   ├── UnknownModel             unknown_model             422
    │   ├── PathOutsideRoot          path_outside_root         422
    │   ├── PathNotFound             path_not_found            422
    │   ├── FileUnusable             file_unusable             422
    │   ├── NoImages                 no_images                 422
    │   ├── SourceInvalid            source_invalid            422   a list, an archive or a table of images
    │   │   ├── AddressesNotAllowed  addresses_not_allowed     422   nothing at them may be fetched
    │   │   ├── ArchiveDamaged       archive_damaged           422
    │   │   └── ArchiveUnsafe        archive_unsafe            422   more than the limits on archives allow
    │   ├── LabelsRequired           labels_required           422
    │   ├── LabelsInvalid            labels_invalid            422
    │   │   └── LabelsAmbiguous      labels_ambiguous          422
    │   ├── ClustersInvalid          clusters_invalid          422
    │   ├── NoSharedRows             no_shared_rows            422
    │   ├── SubsetTooSmall           subset_too_small          422
    │   ├── MergeCycle               merge_cycle               422   a cluster would be merged into itself
    │   ├── NotFinite                not_finite                422
    │   ├── DimensionMismatch        dimension_mismatch        422
    │   ├── SetsNotAligned           sets_not_aligned          422   not of the same images in the same order
    │   ├── VectorsInvalid           vectors_invalid           422
    │   ├── EngineUnavailable        engine_unavailable        422
    │   ├── BackendNotInstalled      backend_not_installed     422
    │   ├── MemoryLimitTooSmall      memory_limit_too_small    422
    │   ├── TooManyPairs             too_many_pairs            422
    │   ├── ImportInvalid            import_invalid            422
    │   ├── UploadInvalid            upload_invalid            422   an archive or a form that is not unpacked
    │   ├── CallbackRefused          callback_refused          422   no webhook may be sent there
    │   └── ImageInvalid             image_invalid             422   one image, also as a row of errors
    │       ├── ImageEmpty           image_empty               422
    │       ├── ImageTruncated       image_truncated           422
    │       ├── ImageUnrecognised    image_unrecognised        422
    │       │   └── ImageUnsupported image_unsupported         422
    │       ├── ImageTooLarge        image_too_large           422
    │       ├── ImageUnreadable      image_unreadable          422
    │       │   ├── ImageRemoved     image_removed             422
    │       │   └── ImageMissing     image_missing             422   a list names it, but there is no such file
    │       ├── ImageChanged         image_changed             422
    │       ├── ImageOutsideRoot     image_outside_root        422
    │       ├── ImageNotAllowed      image_not_allowed         422   nothing at its address may be fetched
    │       ├── ImageFetchFailed     image_fetch_failed        422   its server fails or refuses
    │       ├── ImageDecoderDied     image_decoder_died        422
    │       └── ImageNotFinite       image_not_finite          422
    ├── HostUnsupported              host_unsupported          500   services do not run on this operating system
    ├── StackError                   stack_failed              500   `shoal up` or one of its processes failed
    ├── SocketUnusable               socket_unusable           500   a model host cannot listen on its socket
    ├── NoKeys                       no_keys                   500   other machines could reach the API without a key
    ├── MalformedRequest             malformed_request         400
    ├── NotAuthenticated             not_authenticated         401
    ├── Forbidden                    forbidden                 403
    │   └── CsrfFailed               csrf_failed               403   a change in a session, not sent by its pages
    ├── RequestTimeout               request_timeout           408
    ├── PreconditionFailed           precondition_failed       412   somebody else changed it since it was read
    ├── BodyTooLarge                 body_too_large            413
    │   └── QuotaExceeded            quota_exceeded            413   the uploads of one API key
    ├── UnsupportedMediaType         unsupported_media_type    415
    ├── HostNotAllowed               host_not_allowed          421
    ├── PreconditionRequired         precondition_required     428   no `If-Match` was sent
    ├── TooManyRequests              too_many_requests         429   with `retry_after_s`
    │   ├── RateLimited              rate_limited              429
    │   ├── QueueFull                queue_full                429
    │   ├── TooManyStreams           too_many_streams          429
    │   └── TooManyUploads           too_many_uploads          429
    ├── NotFound                     not_found                 404
    │   ├── JobNotFound              job_not_found             404
    │   ├── ModelNotFound            model_not_found           404
    │   ├── EmbeddingsNotFound       embeddings_not_found      404
    │   ├── ClusteringNotFound       clustering_not_found      404
    │   ├── ClusterNotFound          cluster_not_found         404
    │   ├── MapNotFound              map_not_found             404   of a clustering of an earlier version
    │   ├── AssignmentsNotFound      assignments_not_found     404
    │   ├── SweepNotFound            sweep_not_found           404
    │   ├── DuplicatesNotFound       duplicates_not_found      404
    │   ├── QualityNotFound          quality_not_found         404
    │   └── UploadNotFound           upload_not_found          404   also: of another API key
    ├── Conflict                     conflict                  409
    │   ├── EmbeddingsIncomplete     embeddings_incomplete     409
    │   ├── EmbeddingsInUse          embeddings_in_use         409
    │   ├── UndoConflict             undo_conflict             409   nothing to undo, or changed again since
    │   ├── IdempotencyConflict      idempotency_conflict      409
    │   ├── ModelChanged             model_changed             409
    │   ├── JobFinished              job_finished              409
    │   ├── UploadIncomplete         upload_incomplete         409
    │   ├── UploadComplete           upload_complete           409   no part may follow
    │   ├── UploadConflict           upload_conflict           409   a part of this number with other content
    │   └── UploadInUse              upload_in_use             409
    ├── JobError                     job_failed                500   why a job failed
    │   ├── TooManyFailures          too_many_failures         500
    │   ├── WeightsMissing           weights_missing           500
    │   ├── WeightsInvalid           weights_invalid           500
    │   ├── WorkerDied               worker_died               500
    │   ├── ChildSilent              child_silent              500
    │   ├── ModelNotServed           model_not_served          500
    │   ├── ModelMismatch            model_mismatch            500
    │   ├── ServingRefused           serving_refused           500
    │   ├── ServingFailed            serving_failed            500
    │   ├── ServingUnavailable       serving_unavailable       503   committed shards stay; the job can go on later
    │   ├── OutOfMemory              out_of_memory             500
    │   └── TransientFailure         transient_failure         503   worth another attempt
    ├── StoreError                   store_error               500
    │   ├── StoreCorrupt             store_corrupt             500
    │   ├── StoreReadOnly            store_read_only           500
    │   └── StoreFull                store_full                507
    └── Unavailable                  unavailable               503
        ├── QueueUnavailable         queue_unavailable         503
        ├── RayUnavailable           ray_unavailable           503   the job goes on from what is kept
        ├── StoreUnavailable         store_unavailable         503   the bucket of the embeddings is away
        ├── OtherStore               other_store               503   the queue's jobs are of another store
        ├── ModelLoading             model_loading             503   with `retry_after_s`
        ├── Overloaded               overloaded                503   with `retry_after_s`
        ├── DeadlinePassed           deadline_passed           503   the request's own time limit
        ├── ModelHostDown            model_host_down           503   with `retry_after_s`
        └── TooManyConnections       too_many_connections      503   with `retry_after_s`

``code`` is stable and meant for programs; ``detail`` says what is wrong and what to do.
"""

from __future__ import annotations

from typing import Any, ClassVar

JsonValue = Any


class ShoalError(Exception):
    """An error with a stable code, an HTTP status and a message that says what to do.

    Parameters
    ----------
    detail
        One or two sentences: what is wrong (naming the file, row or field), and what to do.
    **members
        Further members of the RFC 9457 problem, for programs: JSON values only.

    Attributes
    ----------
    code
        Stable; the HTTP status is ``status``.
    retryable
        Whether the same request may succeed later.
    """

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init_subclass__(
        cls, *, code: str | None = None, status: int | None = None, retryable: bool | None = None
    ) -> None:
        super().__init_subclass__()
        for name, value in {"code": code, "status": status, "retryable": retryable}.items():
            if value is not None:
                setattr(cls, name, value)

    def __init__(self, detail: str, **members: JsonValue) -> None:
        super().__init__(detail)
        self.detail = detail
        self.members = members

    def problem(self) -> dict[str, JsonValue]:
        """The error as an RFC 9457 problem object."""
        return {
            "type": f"urn:shoal:error:{self.code}",
            "title": self.code.replace("_", " "),
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            **self.members,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.detail, self.members))


def by_code(problem: dict[str, JsonValue]) -> ShoalError:
    """The exception of ``problem``, so that a client raises what the service raised.

    An unknown code, from another version, becomes a plain `ShoalError` that keeps the code.
    """
    # Of classes that share a code, the topmost: every process knows that one.
    known = {cls.code: cls for cls in reversed(_tree(ShoalError))}
    cls = known.get(str(problem.get("code")), ShoalError)
    members = {key: value for key, value in problem.items() if key not in {"type", "title", "status", "detail"}}
    code = members.pop("code", cls.code)
    error = cls(str(problem.get("detail", "")), **members)
    error.__dict__["code"] = code
    return error


def relayed(document: object, status: int, retry_after: str, who: str) -> ShoalError:
    """The error that another service answered, with its status and the seconds after which to try again.

    Parameters
    ----------
    document
        The answer's JSON; whatever is no problem is described by its status alone.
    retry_after
        The header, empty if there is none.
    who
        Answered, as the subject of a sentence.
    """
    known = document if isinstance(document, dict) else {}
    error = by_code({"detail": f"{who} answered {status}.", **known})
    # Of an unknown code, by_code knows no status.
    error.__dict__["status"] = status
    if retry_after.isdecimal():
        error.members.setdefault("retry_after_s", int(retry_after))
    return error


def _tree(root: type[ShoalError]) -> list[type[ShoalError]]:
    return [root, *(cls for child in root.__subclasses__() for cls in _tree(child))]


def _rebuild(cls: type[ShoalError], detail: str, members: dict[str, JsonValue]) -> ShoalError:
    return cls(detail, **members)


class InvalidRequest(ShoalError, code="invalid_request", status=422): ...


class UnknownModel(InvalidRequest, code="unknown_model"): ...


class PathOutsideRoot(InvalidRequest, code="path_outside_root"): ...


class PathNotFound(InvalidRequest, code="path_not_found"): ...


class FileUnusable(InvalidRequest, code="file_unusable"): ...


class NoImages(InvalidRequest, code="no_images"): ...


class SourceInvalid(InvalidRequest, code="source_invalid"): ...


class AddressesNotAllowed(SourceInvalid, code="addresses_not_allowed"): ...


class ArchiveDamaged(SourceInvalid, code="archive_damaged"): ...


class ArchiveUnsafe(SourceInvalid, code="archive_unsafe"): ...


class LabelsRequired(InvalidRequest, code="labels_required"): ...


class LabelsInvalid(InvalidRequest, code="labels_invalid"): ...


class LabelsAmbiguous(LabelsInvalid, code="labels_ambiguous"): ...


class ClustersInvalid(InvalidRequest, code="clusters_invalid"): ...


class SubsetTooSmall(InvalidRequest, code="subset_too_small"): ...


class NoSharedRows(InvalidRequest, code="no_shared_rows"): ...


class MergeCycle(InvalidRequest, code="merge_cycle"): ...


class NotFinite(InvalidRequest, code="not_finite"): ...


class DimensionMismatch(InvalidRequest, code="dimension_mismatch"): ...


class SetsNotAligned(InvalidRequest, code="sets_not_aligned"): ...


class VectorsInvalid(InvalidRequest, code="vectors_invalid"): ...


class EngineUnavailable(InvalidRequest, code="engine_unavailable"): ...


class BackendNotInstalled(InvalidRequest, code="backend_not_installed"): ...


class MemoryLimitTooSmall(InvalidRequest, code="memory_limit_too_small"): ...


class TooManyPairs(InvalidRequest, code="too_many_pairs"): ...


class ImportInvalid(InvalidRequest, code="import_invalid"): ...


class UploadInvalid(InvalidRequest, code="upload_invalid"): ...


class CallbackRefused(InvalidRequest, code="callback_refused"): ...


class ImageInvalid(InvalidRequest, code="image_invalid"): ...


class ImageEmpty(ImageInvalid, code="image_empty"): ...


class ImageTruncated(ImageInvalid, code="image_truncated"): ...


class ImageUnrecognised(ImageInvalid, code="image_unrecognised"): ...


class ImageUnsupported(ImageUnrecognised, code="image_unsupported"): ...


class ImageTooLarge(ImageInvalid, code="image_too_large"): ...


class ImageUnreadable(ImageInvalid, code="image_unreadable"): ...


class ImageRemoved(ImageUnreadable, code="image_removed"): ...


class ImageMissing(ImageUnreadable, code="image_missing"): ...


class ImageChanged(ImageInvalid, code="image_changed"): ...


class ImageOutsideRoot(ImageInvalid, code="image_outside_root"): ...


class ImageNotAllowed(ImageInvalid, code="image_not_allowed"): ...


class ImageFetchFailed(ImageInvalid, code="image_fetch_failed"): ...


class ImageDecoderDied(ImageInvalid, code="image_decoder_died"): ...


class ImageNotFinite(ImageInvalid, code="image_not_finite"): ...


class HostUnsupported(ShoalError, code="host_unsupported"): ...


class StackError(ShoalError, code="stack_failed"): ...


class SocketUnusable(ShoalError, code="socket_unusable"): ...


class NoKeys(ShoalError, code="no_keys"): ...


class MalformedRequest(ShoalError, code="malformed_request", status=400): ...


class UnsupportedMediaType(ShoalError, code="unsupported_media_type", status=415): ...


class NotAuthenticated(ShoalError, code="not_authenticated", status=401): ...


class Forbidden(ShoalError, code="forbidden", status=403): ...


class CsrfFailed(Forbidden, code="csrf_failed"): ...


class RequestTimeout(ShoalError, code="request_timeout", status=408): ...


class BodyTooLarge(ShoalError, code="body_too_large", status=413): ...


class QuotaExceeded(BodyTooLarge, code="quota_exceeded"): ...


class HostNotAllowed(ShoalError, code="host_not_allowed", status=421): ...


class PreconditionFailed(ShoalError, code="precondition_failed", status=412): ...


class PreconditionRequired(ShoalError, code="precondition_required", status=428): ...


class TooManyRequests(ShoalError, code="too_many_requests", status=429, retryable=True): ...


class RateLimited(TooManyRequests, code="rate_limited"): ...


class QueueFull(TooManyRequests, code="queue_full"): ...


class TooManyStreams(TooManyRequests, code="too_many_streams"): ...


class TooManyUploads(TooManyRequests, code="too_many_uploads"): ...


class NotFound(ShoalError, code="not_found", status=404): ...


class JobNotFound(NotFound, code="job_not_found"): ...


class ModelNotFound(NotFound, code="model_not_found"): ...


class EmbeddingsNotFound(NotFound, code="embeddings_not_found"): ...


class ClusteringNotFound(NotFound, code="clustering_not_found"): ...


class ClusterNotFound(NotFound, code="cluster_not_found"): ...


class MapNotFound(NotFound, code="map_not_found"): ...


class SweepNotFound(NotFound, code="sweep_not_found"): ...


class AssignmentsNotFound(NotFound, code="assignments_not_found"): ...


class DuplicatesNotFound(NotFound, code="duplicates_not_found"): ...


class QualityNotFound(NotFound, code="quality_not_found"): ...


class UploadNotFound(NotFound, code="upload_not_found"): ...


class Conflict(ShoalError, code="conflict", status=409): ...


class EmbeddingsIncomplete(Conflict, code="embeddings_incomplete"): ...


class EmbeddingsInUse(Conflict, code="embeddings_in_use"): ...


class UndoConflict(Conflict, code="undo_conflict"): ...


class IdempotencyConflict(Conflict, code="idempotency_conflict"): ...


class ModelChanged(Conflict, code="model_changed"): ...


class JobFinished(Conflict, code="job_finished"): ...


class UploadIncomplete(Conflict, code="upload_incomplete"): ...


class UploadComplete(Conflict, code="upload_complete"): ...


class UploadConflict(Conflict, code="upload_conflict"): ...


class UploadInUse(Conflict, code="upload_in_use"): ...


class JobError(ShoalError, code="job_failed"): ...


class TooManyFailures(JobError, code="too_many_failures"): ...


class WeightsMissing(JobError, code="weights_missing"): ...


class WeightsInvalid(JobError, code="weights_invalid"): ...


class WorkerDied(JobError, code="worker_died"): ...


class ChildSilent(JobError, code="child_silent"): ...


class ModelNotServed(JobError, code="model_not_served"): ...


class ModelMismatch(JobError, code="model_mismatch"): ...


class ServingRefused(JobError, code="serving_refused"): ...


class ServingFailed(JobError, code="serving_failed"): ...


class ServingUnavailable(JobError, code="serving_unavailable", status=503, retryable=True): ...


class OutOfMemory(JobError, code="out_of_memory"): ...


class TransientFailure(JobError, code="transient_failure", status=503, retryable=True): ...


class StoreError(ShoalError, code="store_error"): ...


class StoreCorrupt(StoreError, code="store_corrupt"): ...


class StoreReadOnly(StoreError, code="store_read_only"): ...


class StoreFull(StoreError, code="store_full", status=507, retryable=True): ...


class Unavailable(ShoalError, code="unavailable", status=503, retryable=True): ...


class QueueUnavailable(Unavailable, code="queue_unavailable"): ...


class RayUnavailable(Unavailable, code="ray_unavailable"): ...


class StoreUnavailable(Unavailable, code="store_unavailable"): ...


class OtherStore(Unavailable, code="other_store"): ...


class TooManyConnections(Unavailable, code="too_many_connections"): ...


class ModelLoading(Unavailable, code="model_loading"): ...


class Overloaded(Unavailable, code="overloaded"): ...


class DeadlinePassed(Unavailable, code="deadline_passed"): ...


class ModelHostDown(Unavailable, code="model_host_down"): ...
