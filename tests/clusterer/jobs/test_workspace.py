"""The working folder of a clustering job, as its next attempt finds it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from clusterer.data.pca import accumulate_moments, fit_pca
from clusterer.data.rows import ArrayRows
from clusterer.jobs.workspace import Workspace


def test_a_kept_pca_is_the_same_bit_by_bit(tmp_path: Path) -> None:
    rows = ArrayRows(np.random.default_rng(0).standard_normal((50, 8), dtype=np.float32))
    pca = fit_pca(accumulate_moments(rows), 3)
    Workspace(tmp_path, rows_in_memory=True).keep_pca("transform", pca)
    found = Workspace(tmp_path, rows_in_memory=True).pca("transform")
    assert found is not None
    assert found.components.tobytes() == pca.components.tobytes()
    assert found.total_variance == pca.total_variance


def test_a_file_of_another_version_is_computed_again(tmp_path: Path) -> None:
    np.savez(tmp_path / "transform.npz", mean=np.zeros(8), matrix=np.eye(8))
    assert Workspace(tmp_path, rows_in_memory=True).pca("transform") is None


def test_rows_that_cannot_be_removed_stay_until_the_folder_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "work"
    work = Workspace(folder, rows_in_memory=False)
    work.hold("rows", ArrayRows(np.zeros((5, 2), np.float32)))

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        work.release("rows")
    assert [path.name for path in folder.iterdir()] == ["rows.f32"]
    work.remove()
    assert not folder.exists()
