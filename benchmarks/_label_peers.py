"""cleanlab on given features; runs in an environment of its own and writes peers.json into the folder it is given."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

MODELS: dict[str, Callable[[], Any]] = {
    "logistic regression": lambda: LogisticRegression(max_iter=300, C=10),
    "10 nearest neighbours": lambda: KNeighborsClassifier(10),
}


def main() -> None:
    """Average precision of cleanlab's rankings with out-of-sample probabilities of two classifiers."""
    work = Path(sys.argv[1])
    data = np.load(work / "labels.npz")
    features, labels, wrong = data["features"], data["labels"], data["wrong"]
    found: dict[str, dict[str, Any]] = {}
    for name, model in MODELS.items():
        start = time.perf_counter()
        probabilities = cross_val_predict(model(), features, labels, cv=5, method="predict_proba")
        seconds = time.perf_counter() - start
        for by in ("self_confidence", "normalized_margin"):
            scores = get_label_quality_scores(labels, probabilities, method=by)
            issues = find_label_issues(labels, probabilities, return_indices_ranked_by=by)
            listed = np.zeros(len(labels))
            listed[issues] = np.arange(len(issues), 0, -1)
            found[f"cleanlab, {name}, {by}"] = {
                "average_precision": round(float(average_precision_score(wrong, -scores)), 4),
                "average_precision_of_issues": round(float(average_precision_score(wrong, listed)), 4),
                "issues": len(issues),
                "precision": round(float(wrong[issues].mean()), 4) if len(issues) else None,
                "recall": round(float(wrong[issues].sum() / wrong.sum()), 4),
                "seconds": round(seconds, 1),
            }
    (work / "peers.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
