"""What a launch shows of itself at its end: figures, claims and the report, in both pages.

MLflow has them as artifacts of the parent run, Optuna Dashboard as artifacts of the study, with the
front of loss and FLOPs among its plots: its own Pareto page is of studies with several objectives.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from mimetypes import guess_type
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from optuna.artifacts import ArtifactMeta, FileSystemArtifactStore

from orchestrator.base.errors import BadInput, LaunchHeld, StudyError
from orchestrator.base.urls import redact
from orchestrator.driver.session import Session
from orchestrator.report import parent_summary
from orchestrator.report.figure_data import Rows
from orchestrator.report.records import LaunchRecords
from orchestrator.report.table_files import write_table
from orchestrator.report.table_text import violation_notes
from orchestrator.report.tables import Table
from orchestrator.stores.driver_lock import driver_locks
from orchestrator.stores.experiment_names import find_experiment
from orchestrator.stores.importances import complete_needed
from orchestrator.stores.mlflow_client import connect, require_usable
from orchestrator.stores.mlflow_private import NOTE_TAG
from orchestrator.stores.mlflow_refusals import reason
from orchestrator.stores.moved_home import settle
from orchestrator.stores.optuna_launches import OWNER, write_note
from orchestrator.stores.optuna_private import ARTIFACTS_ATTR_PREFIX
from orchestrator.stores.optuna_storage import trouble_named
from orchestrator.stores.optuna_trials import OptunaTrials
from orchestrator.stores.parent_run import find_parent
from orchestrator.stores.trial_record import count_states
from orchestrator.study.study import Study

FIGURES = "figures"
PARETO_PLOT = "pareto-front"


def publish(session: Session) -> None:
    """What cannot be drawn or written is named; a launch ends in order all the same."""
    launch = session.read()
    parent, folder = session.tracking.parent_run_id, session.parent_folder
    try:
        figures = _figures(launch, session.launch.study, folder, session.analysis())
        for path in figures:
            session.tracking.log_artifact(parent, path, FIGURES)
        pages = _pages(launch, session.launch.study, folder)
        for path in pages:
            session.tracking.log_artifact(parent, path)
        table = launch.table(session.launch.study)
        _to_dashboard(launch, [*figures, *pages], table)
        session.tracking.describe_parent(
            parent_summary.description(launch, table),
            parent_summary.params(launch),
            parent_summary.metrics(launch, table),
            sum(record.state == "complete" for record in launch.trials),
        )
    except (ValueError, OSError, BadInput) as error:
        session.tell(f"figures and report could not be made: {error}")


def publish_analysis(
    launch: LaunchRecords,
    study: Study,
    *,
    optuna_storage: str | None,
    mlflow_uri: str | None,
    say: Callable[[str], None],
) -> None:
    """Table, claims, figures and report anew in both pages, now that `analyze` has more to say.

    Where a driver is at work, or MLflow is away, the next end of the launch publishes them, and
    that is said.
    """
    home = launch.home
    storage_url = home.optuna_storage if optuna_storage is None else optuna_storage
    uri = home.mlflow_uri if mlflow_uri is None else mlflow_uri
    later = "The launch's next `run` shows this analysis in the pages."
    try:
        with ExitStack() as stack, TemporaryDirectory() as made:
            stack.enter_context(trouble_named(storage_url))
            for lock in driver_locks(home, storage_url, launch.info.name):
                stack.enter_context(lock)
            for line in settle(home):
                say(line)
            # A driver may have gone on while this was measured.
            launch = LaunchRecords.of(home, launch.info, launch.store.records(), launch.store)
            folder = Path(made)
            figures = _figures(launch, study, folder, launch.analysis())
            pages = _pages(launch, study, folder)
            _to_dashboard(launch, [*figures, *pages], launch.table(study))
            require_usable(uri, must_exist=True)
            _to_parent(launch, connect(uri), figures, pages, launch.table(study), folder)
    except LaunchHeld:
        say("a driver is at work here: the end of its launch shows this analysis in the pages")
    except MlflowException as error:
        say(f"MLflow is away: {reason(error)}. {later}")
    except (ValueError, OSError) as error:
        say(f"{error}. {later}")
    except StudyError as error:
        say(f"The pages do not show this analysis: {error}")


def _to_parent(
    launch: LaunchRecords,
    client: MlflowClient,
    figures: Sequence[Path],
    pages: Sequence[Path],
    table: Table,
    folder: Path,
) -> None:
    """Raises BadInput where the store does not have the launch."""
    experiment = find_experiment(client, launch.info.name)
    owner = launch.info.attributes[OWNER]
    parent = experiment and find_parent(client, experiment.experiment_id, owner)
    if parent is None:
        raise BadInput(
            f"{redact(client.tracking_uri)} has no run of this launch. Name its --mlflow-uri."
        )
    run_id = parent.info.run_id
    for paths, within in ((figures, FIGURES), ([*pages, *write_table(table, folder)], None)):
        for path in paths:
            client.log_artifact(run_id, str(path), within)
    client.set_tag(run_id, NOTE_TAG, parent_summary.description(launch, table))
    for name, value in parent_summary.metrics(launch, table).items():
        client.log_metric(run_id, name, value)


def _figures(launch: LaunchRecords, study: Study, folder: Path, rows: Rows) -> list[Path]:
    from orchestrator.report.print_figures import draw_launch  # matplotlib: a second to import

    return draw_launch(launch, launch.home, folder / FIGURES, rows=rows, design=study.design)


def _pages(launch: LaunchRecords, study: Study, folder: Path) -> list[Path]:
    from orchestrator.report.page import write_report

    claims = folder / "claims.json"
    claims.write_text(json.dumps(launch.judgement(study).to_dict(), indent=2))
    return [claims, write_report(launch, study, folder / "report.html")]


def _to_dashboard(launch: LaunchRecords, paths: Sequence[Path], table: Table) -> None:
    from optuna_dashboard import save_plotly_graph_object
    from plotly.graph_objects import Figure

    from orchestrator.report.figure_labels import label_of
    from orchestrator.report.pareto import pareto_points
    from orchestrator.report.plotly_charts import pareto_chart, with_colours

    shown = [path for path in paths if path.suffix != ".pdf"]  # it shows images, not PDF
    attach(launch.store, launch.home.optuna_artifacts, shown)
    verdicts = parent_summary.verdicts_text(table)
    write_note(
        launch.store.study,
        launch.info,
        verdicts=verdicts,
        importance=_importance_note(launch),
        violating=" ".join(violation_notes(table)),
    )
    if points := pareto_points(launch.trials, launch.home, metric=launch.judged_metric):
        chart = with_colours(pareto_chart(points, metric=label_of(launch.judged_metric)))
        chart["layout"]["title"] = {
            "text": f"{launch.judged_metric} against training FLOPs, means over seeds"
        }
        save_plotly_graph_object(launch.store.study, Figure(chart), graph_object_id=PARETO_PLOT)


def _importance_note(launch: LaunchRecords) -> str:
    """How many trials Optuna Dashboard's chart of importances needs to be believed, and where the
    report has it with intervals."""
    if not launch.info.attributes["sampled"]:
        return ""
    axes = {path for record in launch.trials for path in record.params}
    complete = count_states(launch.trials)["complete"]
    report = f"/artifacts/{launch.info.study_id}/{_artifact_id(launch.info.name, 'report.html')}"
    nuisance = ", ".join(launch.info.nuisance)
    tuned = f", and without {nuisance}, at each design's best," if nuisance else ""
    return (
        f"Importances of {len(axes)} axes are to be believed from {complete_needed(len(axes))} "
        f"complete trials on; there are {complete}. With intervals{tuned} they stand in the "
        f"[report]({report}#figure-importance).\n\n"
    )


def _artifact_id(launch: str, name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{launch}/{name}"))


def attach(search: OptunaTrials, folder: Path, paths: Sequence[Path]) -> None:
    """Puts files among the artifacts of the launch's study in Optuna Dashboard.

    An artifact's id follows from its name (UUID 5), so that a launch that goes on replaces its own,
    and drops those it no longer has; the ids of `optuna.artifacts.upload_artifact` are new each
    time. What users uploaded there stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    store = FileSystemArtifactStore(folder)
    fresh: dict[str, str | None] = {}
    for path in paths:
        artifact_id = _artifact_id(search.info.name, path.name)
        with path.open("rb") as file:
            store.write(artifact_id, file)
        mimetype, encoding = guess_type(path.name)
        meta = ArtifactMeta(
            artifact_id=artifact_id,
            filename=path.name,
            mimetype=mimetype or "application/octet-stream",
            encoding=encoding,
        )
        fresh[ARTIFACTS_ATTR_PREFIX + artifact_id] = json.dumps(asdict(meta))
    known = search.study_attributes()
    gone = {key for key in known if _is_ours(key) and key not in fresh}
    for key, value in {**fresh, **dict.fromkeys(gone, json.dumps(None))}.items():
        if known.get(key) != value:
            search.set_study_attribute(key, value)


def _is_ours(key: str) -> bool:
    prefix, _, artifact_id = key.partition(ARTIFACTS_ATTR_PREFIX)
    return not prefix and bool(artifact_id) and uuid.UUID(artifact_id).version == 5
