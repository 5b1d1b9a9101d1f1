"""Which engine an extraction runs with, decided before its plan is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from shoal.errors import EngineUnavailable, JsonValue
from shoal.schemas import ExtractRequest
from shoal.settings import Settings
from shoal.store import EmbeddingSet, Plan, Store

from extractor.backends.engines.numerics import CLASSES, classes, engine_of, missing, require
from extractor.models.spec import ModelSpec

FLOAT32 = "float32"
"""What people read where a plan has no numerics class."""


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
    found = classes(engine, settings)
    if not found:
        own = [numerics for numerics, name in CLASSES.items() if name == engine]
        raise EngineUnavailable(
            f"The engine `{engine}` does not run here: {missing(own[-1], settings)}. Send another `engine`.",
            engine=engine,
        )
    require(found[0], spec, settings)
    return found


def choose(found: list[str | None], store: Store, plan: Callable[[str | None], Plan]) -> EngineChoice:
    """One of the classes ``found``: that of a set which the store has already, so that it is continued, or the first.

    Parameters
    ----------
    found
        From `candidates`.
    plan
        Makes the plan of a numerics class.
    """
    for numerics in found if len(found) > 1 else ():
        if store.has_plan(plan(numerics).id):
            return EngineChoice(numerics, "The store has embeddings of the same request in these numbers.")
    return EngineChoice(found[0], "The request names the engine.")


def noted(embeddings: EmbeddingSet, spec: ModelSpec) -> JsonValue:
    """The ``engine`` of a job's result, as the first job on the set noted it; None for models without engines."""
    if not spec.has_engines:
        return None
    note = embeddings.notes.get("engine")
    return note if isinstance(note, dict) else EngineChoice(embeddings.plan.engine, "An earlier job took it.").record()
