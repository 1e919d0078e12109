"""Seeds until claims are decided: to open claims alone, and the same ones after every kill."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from moe.metrics import DEVICE_S, VAL_LOSS
from orchestrator.base.errors import BadInput
from orchestrator.base.home import Home
from orchestrator.driver.until_decided import require_decidable
from orchestrator.report.allocation import next_allotment, standings
from orchestrator.report.judge import judge_launch
from orchestrator.stores.optuna_launches import REGISTRATIONS
from orchestrator.stores.trial_record import TrialRecord
from orchestrator.study import All, Better, Equivalent, Sequential
from orchestrator.study.registration import standing
from orchestrator.study.resolve import resolve

UNTIL = {"until_decided": True}
MEANS = {"dense": 3.2, "learned": 3.0, "frozen": 3.0}
SPREAD = {"dense": 0.002, "learned": 0.002, "frozen": 0.011}


@pytest.fixture
def study(grid_study):
    return dataclasses.replace(
        grid_study,
        name="decided",
        design=Sequential(max_seeds=12),
        seeds=(0, 1, 2),
        claims=(
            Better(id="easy", statement="s", a="learned", b="dense"),
            Equivalent(id="hard", statement="s", a="frozen", b="learned", margin=0.016),
        ),
    )


def loss_of(cell, seed):
    rng = np.random.default_rng([seed + 3, *cell.encode()])
    return MEANS[cell] + rng.normal(0, SPREAD[cell])


def work(session, most=None):
    """As many trials as are left, or `most`; the seconds of each are those of its cell."""
    done = 0
    while (most is None or done < most) and (assignment := session.ledger.next()) is not None:
        number, point = assignment.record.number, assignment.point
        session.ledger.started(number)
        value = loss_of(point.cell, point.seed)
        entry = {"step": 8, "tokens": 1024, "timestamp_ms": 1000, VAL_LOSS: value, DEVICE_S: 2.0}
        session.ledger.completed(number, entry, tokens=1024)
        done += 1
    return done


def trained(session):
    return [(r.cell, r.seed) for r in session.records if r.state == "complete"]


def test_open_claims_alone_get_seeds_and_a_kill_changes_nothing(home, hold, study, tmp_path):
    with hold(study, options=UNTIL) as session:
        work(session)
        whole = trained(session)
        stands = {one.claim: one for one in session.standings}
    assert [(stands[c].verdict, stands[c].is_open) for c in ("easy", "hard")] == [
        ("supported", False),
        ("supported", False),
    ]
    seeds = {cell: sorted(s for c, s in whole if c == cell) for cell in MEANS}
    assert seeds["frozen"] == seeds["learned"] == list(range(len(seeds["frozen"])))
    assert 3 <= len(seeds["dense"]) < len(seeds["frozen"]) <= 12
    assert sum(one.device_s for one in stands.values()) == pytest.approx(2.0 * len(whole))

    killed = tmp_path / "killed"
    with hold(study, options={**UNTIL, "home": Home(killed)}) as session:
        work(session, most=11)
        session.ledger.next()  # handed out, and lost
    with hold(study, options={**UNTIL, "home": Home(killed)}) as session:
        work(session)
        assert sorted(trained(session)) == sorted(whole)


def record(number, cell, seed) -> TrialRecord:
    """A complete trial, as the record has it."""
    return TrialRecord(
        number=number,
        trial_id=number,
        state="complete",
        cell=cell,
        seed=seed,
        config_hash=f"{cell}{seed}",
        cell_hash=cell,
        run_id=None,
        value=loss_of(cell, seed),
        tokens=1024,
        params={},
        error=None,
        attempt=0,
        attributes={"device_s": 2.0},
    )


def allotted(study, start=(), keep=lambda number: True, **known):
    """Cells and seeds in the order of asking, each round kept as far as a kill let it be."""
    planned = [(cell, seed) for seed in study.seeds for cell in MEANS]
    records = [record(number, *one) for number, one in enumerate(start or planned)]
    while True:
        judged = judge_launch(study, scale="cpu", records=records)
        asked = next_allotment(study.claims, judged.verdicts, records, study.design, **known)
        if asked is None:
            break
        for cell in asked.cells:
            records.append(record(len(records), cell, asked.seed))
            if not keep(len(records)):
                return [(r.cell, r.seed) for r in records]
    return [(r.cell, r.seed) for r in records]


def test_the_allocation_is_a_function_of_the_trials(study):
    whole = allotted(study)
    assert len(whole) > 12
    for stopped_at in range(9, len(whole) + 1):
        before = allotted(study, keep=lambda number, at=stopped_at: number < at)
        assert allotted(study, start=before) == whole


def test_a_compound_that_leans_to_a_refutation_gets_seeds_for_that_part_alone(study, monkeypatch):
    """Frozen is as good as learned, so that no number of seeds has both parts supported."""
    monkeypatch.setitem(MEANS, "frozen", 2.985)
    monkeypatch.setitem(MEANS, "dense", 3.006)  # slow to be told from learned
    monkeypatch.setitem(SPREAD, "dense", 0.011)
    parts = (
        Better(id="both.1", statement="s", a="learned", b="frozen"),
        Better(id="both.2", statement="s", a="learned", b="dense"),
    )
    both = All(id="both", statement="s", parts=parts)
    asked = dataclasses.replace(study, claims=(both,))
    whole = allotted(asked)
    seeds = {cell: {seed for at, seed in whole if at == cell} for cell in MEANS}
    assert len(seeds["frozen"]) == len(seeds["learned"]) > 3
    assert len(seeds["dense"]) == 3
    judged = judge_launch(
        asked, scale="cpu", records=[record(i, *one) for i, one in enumerate(whole)]
    )
    assert [judged.verdicts[0].verdict, judged.verdicts[0].parts[0].verdict] == ["refuted"] * 2
    supported = dataclasses.replace(
        study, claims=(dataclasses.replace(both, parts=(parts[1], _turned(parts[0]))),)
    )
    more = allotted(supported)
    assert len({seed for cell, seed in more if cell == "dense"}) > 3, "both are needed for it"


def _turned(claim):
    return dataclasses.replace(claim, a=claim.b, b=claim.a)


def test_it_ends_where_nothing_can_be_decided(study):
    hopeless = Equivalent(id="never", statement="s", a="frozen", b="learned", margin=0.0005)

    def end(**changes):
        asked = dataclasses.replace(study, claims=(hopeless,), **changes)
        records = [record(i, *one) for i, one in enumerate(allotted(asked))]
        judged = judge_launch(asked, scale="cpu", records=records)
        (stands,) = standings(asked.claims, judged.verdicts, records, asked.design)
        return stands

    futile = end(design=Sequential(max_seeds=30))
    assert futile.why.startswith("futile")
    assert 5 <= futile.n < 12
    assert not futile.is_open
    assert end(design=Sequential(max_seeds=4)).why == "undecided at the design's 4 seeds"


def test_seeds_that_the_home_has_trained_cost_nothing(study):
    """The claim that is nearer by its mean and spread waits for one that is nearer by what is left
    to be trained."""
    order = [cell for cell, _ in allotted(study)[9:]]
    assert set(order[:2]) == {"dense", "learned"}
    other = {"is_trained": lambda cell, seed: cell in ("frozen", "learned")}
    assert {cell for cell, _ in allotted(study, **other)[9:11]} == {"frozen", "learned"}
    far = {"is_trained": lambda cell, seed: cell == "frozen" and seed >= study.design.max_seeds}
    assert [cell for cell, _ in allotted(study, **far)[9:]] == order


def test_results_of_another_launch_are_known_to_the_allocation(hold, study):
    routers = [cell for cell in study.cells if cell.name != "dense"]
    earlier = dataclasses.replace(study, name="earlier", seeds=tuple(range(12)), claims=())
    with hold(dataclasses.replace(earlier, cells=routers)) as session:
        work(session)
    with hold(study, options=UNTIL) as session:
        work(session)
        assert {cell for cell, _ in trained(session)[9:11]} == {"frozen", "learned"}
        assert not any(one.is_open for one in session.standings)


def test_claims_that_are_named_alone_get_seeds(hold, study):
    with hold(study, options={**UNTIL, "claims": ("hard",)}) as session:
        work(session)
        seeds = {cell: {s for c, s in trained(session) if c == cell} for cell in MEANS}
        stands = {one.claim: one.is_open for one in session.standings}
    assert (stands["hard"], len(seeds["dense"])) == (False, 3)
    assert len(seeds["frozen"]) == len(seeds["learned"]) > 3
    for wrong, remedy in (
        ({**UNTIL, "claims": ("harder", "never")}, "received harder, never. Those of decided are"),
        ({"claims": ("hard",)}, "Add --until-decided, or leave --claims out"),
    ):
        with pytest.raises(BadInput, match=re.escape(remedy)), hold(study, options=wrong):
            pass


def test_only_a_sequential_grid_with_claims_goes_on_until_decided(grid_study, sampled_study, study):
    for refused in (
        grid_study,
        sampled_study,
        dataclasses.replace(grid_study, claims=study.claims),
    ):
        with pytest.raises(BadInput, match="--until-decided adds seeds"):
            require_decidable(resolve(refused, need_corpus=False))
    require_decidable(resolve(study, need_corpus=False))


def test_further_seeds_go_on_from_the_studys_own(study):
    """Those of a study that follows a search are none that its cells were chosen by."""
    begun = dataclasses.replace(study, seeds=(3000, 3001, 3002))
    whole = allotted(begun)
    assert len(whole) > 9
    seeds = {seed for _, seed in whole}
    assert seeds == set(range(3000, 3000 + len(seeds)))


def test_claims_on_results_that_the_home_had_already_are_not_before_the_data(hold, study):
    with hold(dataclasses.replace(study, name="earlier", claims=())) as session:
        work(session)
    with hold(study) as session:
        (entry,) = session.search.info.attributes[REGISTRATIONS]
        assert work(session) == 0, "all are taken from there"
    assert entry["results"] == 9
    told = {standing([entry], claim, metric=VAL_LOSS) for claim in study.claims}
    assert told == {f"added {entry['at'][:10]}, after 9 results"}
