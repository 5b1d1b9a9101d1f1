"""Which engine an extraction runs with, decided before its plan is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from shoal.errors import EngineUnavailable, JsonValue
from shoal.schemas import ExtractRequest
from shoal.settings import Settings
from shoal.store import EmbeddingSet

from extractor.backends.engines.numerics import CLASSES, automatic, classes, engine_of, missing, require
from extractor.backends.loading import ModelLoader
from extractor.jobs.engine_timing import FLOAT32, LEAST_IMAGES, Kept, images_to_time, time_engines
from extractor.models.spec import ModelSpec

FEWEST_TIMED = 1000
"""A smaller job takes eager float32 at once."""


@dataclass(frozen=True)
class EngineChoice:
    """The engine of a plan, and why.

    Attributes
    ----------
    numerics
        The plan's ``engine``: a key of `CLASSES`; None for PyTorch's float32.
    reason
        Why it was taken, a sentence.
    timed
        Images per second by numerics class; empty where nothing was timed.
    proof
        ``min_cosine``: least cosine of a row to the same image's row of eager float32, by numerics class.
    """

    numerics: str | None
    reason: str
    timed: dict[str, float] = field(default_factory=dict)
    proof: dict[str, float] = field(default_factory=dict)

    def record(self) -> dict[str, JsonValue]:
        """The choice as a job's result and the notes of the embeddings have it."""
        least = self.proof.get(self.numerics or FLOAT32)
        return {
            "name": engine_of(self.numerics),
            "numerics": self.numerics or FLOAT32,
            "timed": {**self.timed},
            "proof": None if least is None else {"min_cosine": least},
            "reason": self.reason,
        }


def candidates(request: ExtractRequest, spec: ModelSpec, settings: Settings) -> list[str | None]:
    """The numerics classes in which this machine can run the request's engine, the preferred one first.

    Raises
    ------
    EngineUnavailable
        There is none.
    InvalidRequest
        The engine runs networks of PyTorch only, and the model is none.
    """
    engine = request.engine
    if engine == "auto":
        return automatic(settings) if spec.has_engines else [None]
    found = classes(engine, settings)
    if not found:
        own = [numerics for numerics, name in CLASSES.items() if name == engine]
        raise EngineUnavailable(
            f"The engine `{engine}` does not run here: {missing(own[-1], settings)}. Send another `engine`.",
            engine=engine,
        )
    require(found[0], spec, settings)
    return found


def choose(
    request: ExtractRequest,
    model: ModelLoader,
    settings: Settings,
    found: list[str | None],
    known: Callable[[str | None], bool],
    count: int,
) -> EngineChoice:
    """One of the classes ``found``.

    That of a set which the store has already comes first, so that it is continued.

    Parameters
    ----------
    found
        From `candidates`.
    known
        Whether the store has the plan of a numerics class.
    count
        Images of the job.
    """
    for numerics in found if len(found) > 1 else ():
        if known(numerics):
            return EngineChoice(numerics, "The store has embeddings of the same request in these numbers.")
    if request.engine != "auto":
        return EngineChoice(found[0], "The request names the engine.")
    if len(found) == 1:
        return EngineChoice(None, "No other engine is installed that is fast on this machine.")
    if count < FEWEST_TIMED:
        return EngineChoice(None, f"The job has fewer than {FEWEST_TIMED:,} images: timing would not pay.")
    kept = Kept(model, settings, found)
    timings = kept.read()
    if timings is None:
        images = model.sample(images_to_time(settings))
        if len(images) < LEAST_IMAGES:
            return EngineChoice(None, f"Fewer than {LEAST_IMAGES} images of the sample could be read.")
        timings = time_engines(model, settings, found, images)
        kept.write(timings)
    reason = "The fastest on this machine whose rows are those of eager float32."
    return EngineChoice(timings.fastest(), reason, timings.rates, timings.cosines)


def noted(embeddings: EmbeddingSet, spec: ModelSpec) -> JsonValue:
    """The ``engine`` of a job's result, as the first job on the set noted it; None for models without engines."""
    if not spec.has_engines:
        return None
    note = embeddings.notes.get("engine")
    return note if isinstance(note, dict) else EngineChoice(embeddings.plan.engine, "An earlier job took it.").record()
