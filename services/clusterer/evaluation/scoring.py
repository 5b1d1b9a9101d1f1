"""metrics.json of a clustering: every metric of each scored set and seed, with their mean and deviation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from shoal.store import EmbeddingSet

from clusterer.data.rows import IntArray
from clusterer.evaluation.contingency import ClassPairs, contingency
from clusterer.evaluation.label_metrics import Metrics, score_set, summarize
from clusterer.jobs.plan import Plan
from clusterer.kmeans.assign import Assigned

Assignments = dict[str, dict[int, Assigned]]
"""By embeddings id, then by seed."""


def score(
    plan: Plan,
    assignments: Assignments,
    classes: dict[str, IntArray],
    best_seed: int,
    on_set: Callable[[int, int], None],
) -> Metrics:
    """Compare the assignments with the labels.

    Parameters
    ----------
    assignments
        Of the train set and of each scored set.
    classes
        By embeddings id: class of each row, or -1.
    on_set
        Called with how many of how many sets and seeds are done.
    """
    k, c = plan.k, len(plan.vocabulary)
    train_tables = {
        seed: contingency(assigned.labels, classes[plan.train.id], k, c)
        for seed, assigned in assignments[plan.train.id].items()
    }
    scored: dict[str, Metrics] = {}
    total = len(plan.scored) * len(plan.seeds)
    for each in plan.scored:
        options = _SetOptions.of(plan, each)
        per_seed: dict[str, Metrics] = {}
        for seed, assigned in assignments[each.id].items():
            on_set(len(scored) * len(plan.seeds) + len(per_seed), total)
            per_seed[str(seed)] = score_set(
                assigned.labels,
                classes[each.id],
                k=k,
                c=options.c,
                train=train_tables[seed],
                inertia=assigned.inertia,
                label_map=plan.request.label_map,
                seed=seed,
                pairs=options.pairs,
                unmapped=options.unmapped,
            )
        mean, std = summarize(list(per_seed.values()))
        scored[each.id] = {"seeds": per_seed, "mean": mean, "std": std}
    on_set(total, total)
    return {"k": k, "seeds": list(plan.seeds), "best_seed": best_seed, "scored": scored}


@dataclass(frozen=True)
class _SetOptions:
    """What scoring needs to know of a scored set beside its rows."""

    c: int
    pairs: ClassPairs | None
    unmapped: int

    @classmethod
    def of(cls, plan: Plan, scored: EmbeddingSet) -> _SetOptions:
        mapped = plan.class_maps.get(scored.id)
        pairs = None if mapped is None else mapped.pairs
        return cls(len(plan.vocabulary_of(scored.id)), pairs, plan.unmapped_rows(scored))
