"""`POST /clusterings/{id}/names/suggestions`: names for clusters from a list of words, without training."""

from __future__ import annotations

from typing import Annotated, Final

import numpy as np
import pyarrow.compute as pc
from httpx import AsyncClient
from pydantic import AfterValidator, BaseModel, Field, StringConstraints
from shoal.errors import NotFinite
from shoal.inline import MAX_IMAGES
from shoal.schemas import Id
from shoal.schemas import Request as Schema
from shoal.schemas.graph import NOISE
from shoal.settings import Settings
from shoal.store import Store
from shoal.web import SettingsDep, StoreDep
from shoal.web.auth import ForwardedHeaders
from shoal.web.pools import COMPUTE, WORK
from shoal.web.problems import problem_responses
from shoal.web.route import router as make_router

from clusterer.api.images import Embedder, embed_inputs
from clusterer.api.loaded import SearchedSetsDep
from clusterer.api.parameters import ClusteringId
from clusterer.api.search import embedder_of
from clusterer.data.rows import Float32Array, IntArray
from clusterer.evaluation.zero_shot import NamedCluster, name_clusters, typical_rows
from clusterer.results.read import scored_set
from clusterer.search.loaded import Reader
from clusterer.web.extractor import ExtractorDep

MOST_WORDS: Final = 1000
MOST_ROWS: Final = 200_000
"""Images of all clusters together."""


def _one_place(template: str) -> str:
    if template.count("{}") != 1:
        raise ValueError("`{}` must stand in it once, where the word goes")
    return template


class SuggestRequest(Schema):
    """JSON body of `POST /clusterings/{id}/names/suggestions`."""

    words: list[Annotated[str, StringConstraints(min_length=1, max_length=200)]] = Field(
        min_length=1, max_length=MOST_WORDS, description="What clusters may be called. Each takes about 20 ms."
    )
    template: Annotated[str, StringConstraints(max_length=300), AfterValidator(_one_place)] = Field(
        "a photo of a {}", description="The text that the model gets for a word, which takes the place of `{}`."
    )
    embeddings: Id | None = Field(None, description="Id of the scored embeddings; the first by default.")
    images: int = Field(
        50, ge=1, le=1000, description="Most images of each cluster that are compared: those nearest to its centroid."
    )
    most: int = Field(3, ge=1, le=50, description="Most words for each cluster.")


class Suggestion(BaseModel):
    """A word for a cluster."""

    name: str
    similarity: float = Field(description="Mean cosine of the word and the images; only its order means anything.")
    votes: float = Field(description="Share of the images, 0 to 1, to which no other word is nearer.")


class SuggestedCluster(BaseModel):
    """The words for a cluster, the best first."""

    cluster: int
    images: int = Field(description="Images that were compared.")
    suggestions: list[Suggestion]


class Suggestions(BaseModel):
    """Answer of `POST /clusterings/{id}/names/suggestions`."""

    embeddings: str
    clusters: list[SuggestedCluster]


router = make_router()


@router.post(
    "/clusterings/{clustering_id}/names/suggestions",
    tags=["clusters"],
    responses=problem_responses(404, 409, 422, 503),
)
async def suggest_names(
    clustering_id: ClusteringId,
    body: SuggestRequest,
    store: StoreDep,
    sets: SearchedSetsDep,
    extractor: ExtractorDep,
    settings: SettingsDep,
    forwarded: ForwardedHeaders,
) -> Suggestions:
    """Suggest names for clusters from a list of words.

    Each cluster gets the words whose embedding is most similar to those of its images. The model of the embeddings must
    embed texts too, such as `open_clip:ViT-B-32`, and the extractor must be running. Nothing is stored: `PUT
    /clusterings/{id}/names` sets a name.
    """
    chosen, rows, clusters = await WORK.run(_typical, store, clustering_id, body)
    loaded = await sets.get(chosen)
    texts = [body.template.replace("{}", word) for word in body.words]
    words = await _embedded(texts, embedder_of(loaded, "words"), extractor, settings, forwarded)
    named: list[NamedCluster] = []
    async for part in COMPUTE.iterate(name_clusters(Reader(loaded).take, rows, clusters, words, body.most)):
        named += part
    return Suggestions(embeddings=chosen, clusters=[_suggested(each, body.words) for each in named])


def _typical(store: Store, clustering_id: str, body: SuggestRequest) -> tuple[str, IntArray, IntArray]:
    """The scored set, and its rows that are compared, with their clusters."""
    clustering = store.clustering(clustering_id)
    chosen = scored_set(clustering, body.embeddings)
    table = clustering.assignments(chosen, columns=["row", "cluster", "distance"]).sort_by("row")
    table = table.filter(pc.not_equal(table["cluster"], NOISE))
    most = max(1, min(body.images, MOST_ROWS // clustering.k))
    places, clusters = typical_rows(table["cluster"].to_numpy(), table["distance"].to_numpy(), most)
    return chosen, table["row"].to_numpy()[places].astype(np.int64), clusters


async def _embedded(
    texts: list[str], embedder: Embedder, extractor: AsyncClient, settings: Settings, forwarded: dict[str, str]
) -> Float32Array:
    """Embeddings ``(n, dim)`` of texts, of length 1."""
    parts = []
    for first in range(0, len(texts), MAX_IMAGES):
        part = await embed_inputs(texts[first : first + MAX_IMAGES], embedder, extractor, settings, forwarded)
        part.check_finite()
        parts.append(part.values)
    values = np.concatenate(parts).astype(np.float32, copy=False)
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    if not norms.all():
        at = int(np.flatnonzero(norms[:, 0] == 0)[0])
        raise NotFinite(f"The embedding of the text {texts[at]!r} is all zeros.", field="words", input=at)
    found: Float32Array = values / norms
    return found


def _suggested(named: NamedCluster, words: list[str]) -> SuggestedCluster:
    found = zip(named.words, named.similarities, named.votes, strict=True)
    return SuggestedCluster(
        cluster=named.cluster,
        images=named.images,
        suggestions=[Suggestion(name=words[word], similarity=cosine, votes=votes) for word, cosine, votes in found],
    )
