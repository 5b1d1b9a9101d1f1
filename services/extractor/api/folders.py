"""What lies below the data root, so that a person can pick what to embed."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from shoal.schemas import RelativePath
from shoal.web import DeadlineDep, SettingsDep
from shoal.web.problems import problem_responses
from shoal.web.route import router as make_router

from extractor.sources import browse

router = make_router(tags=["extract"])


@router.get("/folders", responses=problem_responses(422))
def list_folders(
    settings: SettingsDep,
    deadline: DeadlineDep,
    path: Annotated[RelativePath, Query(description="A folder, relative to the data root.")] = ".",
) -> browse.Folders:
    """List the folders and files below the data root that `POST /extract` can embed.

    Hidden entries and symlinks that leave the root are left out. With API keys, it needs scope `submit`.
    """
    return browse.look(path, settings.data, deadline)
