"""Where a request may ask to be computed."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

BODIES: dict[str, dict[str, object]] = {
    "/cluster": {"embeddings": "e-1", "clusters": 4},
    "/sweep": {"embeddings": "e-1", "clusters": [4]},
    "/assign": {"clustering": "c-1", "embeddings": "e-1"},
    "/duplicates": {"embeddings": "e-1"},
}


@pytest.mark.parametrize("path", BODIES)
def test_a_cluster_that_the_settings_do_not_name_is_refused(api: TestClient, path: str) -> None:
    answer = api.post(path, json={**BODIES[path], "execution": {"engine": "ray", "address": "elsewhere:6379"}})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["field"] == "execution.address"
    assert "SHOAL_RAY_ADDRESSES" in answer.json()["detail"]
    # Without an address nothing is refused but the set that does not exist.
    allowed = api.post(path, json={**BODIES[path], "execution": {"engine": "ray"}})
    assert allowed.status_code == 404
