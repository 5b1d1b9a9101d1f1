"""How k-means converged, over HTTP."""

from __future__ import annotations

from fastapi.testclient import TestClient
from shoal.store.clustering import Clustering


def test_the_iterations_of_each_seeds_best_run_are_listed(api: TestClient, clustering: Clustering) -> None:
    path = f"/clusterings/{clustering.id}/iterations"
    found = api.get(path).json()["iterations"]
    stored = [{**each, "loss": None} for each in clustering.iterations().to_pylist()]
    for seed in {each["seed"] for each in stored}:
        runs: dict[int, list[dict[str, float]]] = {}
        for each in stored:
            if each["seed"] == seed:
                runs.setdefault(each["restart"], []).append(each)
        assert [each for each in found if each["seed"] == seed] == min(
            runs.values(), key=lambda run: run[-1]["inertia"]
        )
    assert api.get(path, params={"limit": 1}).json()["iterations"] == found[:1]
    assert api.get("/clusterings/none/iterations").status_code == 404
