"""What a launch shows of itself at its end: figures, claims and the report, in both pages.

MLflow has them as artifacts of the parent run, Optuna Dashboard as artifacts of the study, with the
Pareto front among its plots: its own needs a study with two objectives, and this one has one.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from mimetypes import guess_type
from pathlib import Path

from optuna.artifacts import ArtifactMeta, FileSystemArtifactStore

from orchestrator.errors import BadInput
from orchestrator.report.records import LaunchRecords
from orchestrator.search import SearchStore
from orchestrator.session import Session, parent_folder

_ARTIFACT = "artifacts:"  # optuna.artifacts._upload.ARTIFACTS_ATTR_PREFIX
PARETO_PLOT = "pareto-front"


def publish(session: Session) -> None:
    """What cannot be drawn or written is named; a launch ends in order all the same."""
    launch = LaunchRecords(
        home=session.options.home, info=session.info, trials=session.records, store=session.search
    )
    folder = parent_folder(session)
    try:
        figures = _figures(session, launch, folder)
        pages = _pages(session, launch, folder)
        _to_dashboard(session, launch, [*figures, *pages])
    except (ValueError, OSError, BadInput) as error:
        session.tell(f"figures and report could not be made: {error}")


def _figures(session: Session, launch: LaunchRecords, folder: Path) -> list[Path]:
    from orchestrator.report.figures import draw_launch  # matplotlib: a second to import

    paths = draw_launch(launch, launch.home, folder / "figures", rows=session.analysis())
    for path in paths:
        session.tracking.log_artifact(session.tracking.parent_run_id, path, "figures")
    return paths


def _pages(session: Session, launch: LaunchRecords, folder: Path) -> list[Path]:
    from orchestrator.report.html import write_report

    study = session.launch.study
    claims = folder / "claims.json"
    claims.write_text(json.dumps(launch.judgement(study).to_dict(), indent=2))
    paths = [claims, write_report(launch, study, folder / "report.html")]
    for path in paths:
        session.tracking.log_artifact(session.tracking.parent_run_id, path)
    return paths


def _to_dashboard(session: Session, launch: LaunchRecords, paths: Sequence[Path]) -> None:
    from optuna_dashboard import save_plotly_graph_object
    from plotly.graph_objects import Figure

    from orchestrator.report.charts import pareto_chart, with_colours
    from orchestrator.report.labels import label_of
    from orchestrator.report.pareto import pareto_points

    shown = [path for path in paths if path.suffix != ".pdf"]  # it shows images, not PDF
    attach(session.search, launch.home.optuna_artifacts, shown)
    if points := pareto_points(launch.trials, launch.home):
        chart = with_colours(pareto_chart(points, metric=label_of(launch.metric)))
        chart["layout"]["title"] = {"text": "Loss against training FLOPs, means over seeds"}
        save_plotly_graph_object(session.search.study, Figure(chart), graph_object_id=PARETO_PLOT)


def attach(search: SearchStore, folder: Path, paths: Sequence[Path]) -> None:
    """Puts files among the artifacts of the launch's study in Optuna Dashboard.

    An artifact's id follows from its name (UUID 5), so that a launch that goes on replaces its own,
    and drops those it no longer has; the ids of `optuna.artifacts.upload_artifact` are new each
    time. What users uploaded there stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    store = FileSystemArtifactStore(folder)
    study = search.study
    fresh: dict[str, str | None] = {}
    for path in paths:
        artifact_id = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{search.info.name}/{path.name}"))
        with path.open("rb") as file:
            store.write(artifact_id, file)
        mimetype, encoding = guess_type(path.name)
        meta = ArtifactMeta(
            artifact_id=artifact_id,
            filename=path.name,
            mimetype=mimetype or "application/octet-stream",
            encoding=encoding,
        )
        fresh[_ARTIFACT + artifact_id] = json.dumps(asdict(meta))
    known = study._storage.get_study_system_attrs(search.info.study_id)
    gone = {key for key in known if _is_ours(key) and key not in fresh}
    for key, value in {**fresh, **dict.fromkeys(gone, json.dumps(None))}.items():
        if known.get(key) != value:
            study._storage.set_study_system_attr(search.info.study_id, key, value)


def _is_ours(key: str) -> bool:
    return key.startswith(_ARTIFACT) and uuid.UUID(key.removeprefix(_ARTIFACT)).version == 5
