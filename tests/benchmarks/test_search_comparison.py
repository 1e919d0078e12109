"""What the comparison of searches rests on: what peers are told, which points are under way when
one is drawn, and which searches a file spares."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.study.samplers import Random
from search_spaces.domains import Choice

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def simulated(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return __import__("simulated_search")


def problem_of(simulated, num=6, refused=()):
    problems = __import__("search_problems")
    space = problems.FreeSpace({"x": Choice(tuple(range(num)))})
    return problems.Problem(
        "line",
        space,
        lambda values: float(values["x"]),
        lambda values, rng: 0.0,
        is_feasible=lambda values: values["x"] not in refused,
        best=0.0,
    )


def scripted(codes):
    """A peer that draws what it is told to, and keeps what it hears."""
    from search_peers import Peer

    class Scripted(Peer):
        def begin(self, seed):
            self.left, self.heard = list(codes), []

        def ask(self):
            code = self.left.pop(0) if self.left else codes[-1]
            return code, {"x": code}

        def answer(self, handle, value):
            self.heard.append((handle, value))

        def attached(self, values):
            return f"attached {values['x']}"

    return Scripted(trials=10)


def test_a_peer_hears_of_refused_points_and_of_known_ones_at_once(simulated):
    peer = scripted([3, 5, 3, 1, 2])
    run = simulated.searched(problem_of(simulated, refused={5}), peer, trials=3, seed=0)
    assert [record.params["x"] for record in run.records] == [3, 1, 2]
    assert peer.heard == [(3, 3.0), (5, None), (3, 3.0), (1, 1.0)]
    assert run.fallbacks == 0


def test_a_peer_that_draws_nothing_new_hears_of_the_point_taken_instead(simulated):
    peer = scripted([3])
    run = simulated.searched(problem_of(simulated), peer, trials=3, seed=0)
    assert run.fallbacks == 2
    second = run.records[1].params["x"]
    assert (f"attached {second}", float(second)) in peer.heard


@pytest.mark.filterwarnings("ignore")  # their own, of packages that they use
@pytest.mark.parametrize("name", ["optuna-gp", "optuna-tpe", "smac", "ax"])
def test_peers_draw_points_of_a_space_with_conditions(simulated, name):
    from peer_samplers import installed

    made = installed([name], trials=12)
    if not made:
        pytest.skip(f"{name} is not installed")
    jenatton = __import__("search_problems").jenatton()
    run = simulated.searched(jenatton, made[name], trials=12, seed=0)
    assert all(jenatton.space.has(record.params) for record in run.records)
    assert run.fallbacks == 0


def test_a_point_is_drawn_knowing_those_under_way(simulated):
    known = []

    class Asked(Random):
        def suggestions(self, search, *, seed, index):
            known.append([record.state for record in search.records])
            return super().suggestions(search, seed=seed, index=index)

    run = simulated.searched(problem_of(simulated), Asked(), trials=5, seed=0, at_once=3)
    assert [states.count("running") for states in known] == [0, 1, 2, 2, 2]
    assert [states.count("complete") for states in known] == [0, 0, 0, 1, 2]
    assert [record.state for record in run.records] == ["complete"] * 5
    assert len(run.regrets) == 5


def test_a_search_in_the_file_is_not_made_again(simulated, tmp_path):
    from search_runs import Key, Outcome, Runs

    key = Key(problem="p", sampler="s", trials=5, at_once=1, seed=0)
    outcome = Outcome(regret=0.5, fallbacks=1, suggestion_s=0.25)
    assert Runs(tmp_path / "runs").outcome(key, lambda: outcome) == outcome
    assert Runs(tmp_path / "runs").outcome(key, lambda: pytest.fail("made again")) == outcome
