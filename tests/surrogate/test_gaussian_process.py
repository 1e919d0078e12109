"""The process against scikit-learn's, its gradient against differences, its fit against what made
the values."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg, optimize, stats
from threadpoolctl import threadpool_info, threadpool_limits

from orchestrator.surrogate import gaussian_process
from orchestrator.surrogate.gaussian_process import GaussianProcess, fitted


@pytest.fixture
def generator():
    return np.random.default_rng(0)


def test_it_predicts_as_scikit_learn_does(generator):
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern

    rows, values = generator.random((30, 3)), generator.standard_normal(30)
    weights, noise = np.array([4.0, 0.5, 9.0]), 0.05
    ours = GaussianProcess(
        rows=rows,
        values=values,
        groups=np.arange(3),
        weights=weights,
        scale=1.7,
        scale_alone=0.6,
        noise=noise,
    )
    kernel = ConstantKernel(1.7) * Matern(length_scale=1 / np.sqrt(weights), nu=2.5)
    for group in range(3):
        lengths = np.full(3, 1e9)  # blind to the others
        lengths[group] = 1 / np.sqrt(3 * weights[group])
        kernel += ConstantKernel(0.6 / 3) * Matern(length_scale=lengths, nu=2.5)
    theirs = GaussianProcessRegressor(kernel, alpha=noise, optimizer=None).fit(rows, values)
    new = generator.random((20, 3))
    mean, sd = ours.predict(new)
    their_mean, their_covariance = theirs.predict(new, return_cov=True)
    assert mean == pytest.approx(their_mean, abs=1e-5)
    assert sd == pytest.approx(np.sqrt(np.diag(their_covariance)), abs=1e-5)
    joint_mean, covariance = ours.joint(new)
    assert joint_mean == pytest.approx(mean)
    assert covariance == pytest.approx(their_covariance, abs=1e-5)


def test_the_gradient_of_the_fit_is_that_of_differences(generator):
    rows, values = generator.random((12, 4)), generator.standard_normal(12)
    rows[:, 3] = rows[:, 3].round(1)  # as choices, of which some are equal
    pairs = gaussian_process._Pairs.of(rows, np.array([0, 1, 1, 2]))
    prior = generator.standard_normal(6), generator.random(6) + 0.5

    def loss(x):
        return gaussian_process._negative_log_posterior(x, pairs, values, prior)

    for _ in range(3):
        at = generator.standard_normal(6)
        numeric = optimize.approx_fprime(at, lambda x: loss(x)[0], 1e-6)
        assert loss(at)[1] == pytest.approx(numeric, rel=1e-3, abs=1e-3)


def test_the_fit_is_of_the_process_that_predicts(generator):
    """The likelihood over pairs against that of a normal distribution with the process' kernel."""
    rows, values = generator.integers(0, 4, (15, 4)) / 3, generator.standard_normal(15)
    groups = np.array([0, 1, 1, 2])
    process = fitted(rows, values, groups)
    flat = np.zeros(6), np.full(6, 1e6)
    told = [*process.weights, process.scale, process.scale_alone, process.noise]
    pairs = gaussian_process._Pairs.of(rows, groups)
    loss, _ = gaussian_process._negative_log_posterior(np.log(told), pairs, values, flat)
    K = process._kernel(rows, rows) + (process.noise + 1e-8) * np.eye(15)
    density = stats.multivariate_normal(cov=K).logpdf(values)
    assert -loss - 15 / 2 * np.log(2 * np.pi) == pytest.approx(density, abs=1e-5)


def test_a_sum_of_axes_is_learnt_from_fewer_points_than_near_ones_tell(generator):
    """Six choices of five values each: 40 points of 15,625 foretell the others."""
    effects = generator.standard_normal((6, 5))
    points = generator.integers(0, 5, (240, 6))
    values = effects[np.arange(6), points].sum(1)
    values = (values - values.mean()) / values.std()
    rows = np.hstack([np.eye(5)[points[:, axis]] / np.sqrt(2) for axis in range(6)])
    process = fitted(rows[:40], values[:40], np.repeat(np.arange(6), 5))
    mean, _ = process.predict(rows[40:])
    assert np.corrcoef(mean, values[40:])[0, 1] > 0.9999  # of one over all axes at once: 0.97
    assert process.scale_alone > process.scale


def test_the_fit_finds_what_matters_and_the_noise(generator):
    rows = generator.random((80, 4))
    truth = np.sin(5 * rows[:, 0]) + 2 * (rows[:, 1] - 0.4) ** 2
    values = truth + 0.1 * generator.standard_normal(80)
    sd = values.std()
    process = fitted(rows, (values - values.mean()) / sd, np.arange(4))
    assert process.weights[:2].min() > 5 * process.weights[2:].max()
    assert 0.05 < np.sqrt(process.noise) * sd < 0.2
    new = generator.random((200, 4))
    mean, _ = process.predict(new)
    told = np.sin(5 * new[:, 0]) + 2 * (new[:, 1] - 0.4) ** 2
    assert np.corrcoef(mean, told)[0, 1] > 0.98


def test_a_point_under_way_leaves_the_mean_and_takes_the_doubt(generator):
    rows, values = generator.random((20, 2)), generator.standard_normal(20)
    process = fitted(rows, values, np.arange(2))
    pending = np.array([[0.5, 0.5]])
    believed = process.with_pending(pending)
    new = np.vstack([pending, generator.random((10, 2))])
    (mean, sd), (later_mean, later_sd) = process.predict(new), believed.predict(new)
    assert later_mean == pytest.approx(mean, abs=1e-6)
    assert np.all(later_sd <= sd + 1e-9)
    assert later_sd[0] < sd[0]
    assert process.with_pending(np.zeros((0, 2))) is process


def test_products_are_made_by_one_thread_and_others_keep_theirs(generator, monkeypatch):
    """Two on cores that trials keep busy took fifty times as long."""

    def threads():
        return {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"}

    during = []
    for module, name in ((linalg, "cholesky"), (linalg, "solve_triangular")):
        whole = getattr(module, name)

        def watched(*args, _whole=whole, **kwargs):
            during.append(threads())
            return _whole(*args, **kwargs)

        monkeypatch.setattr(module, name, watched)
    rows = generator.random((12, 2))
    with threadpool_limits(2, user_api="blas"):
        before = threads()
        process = fitted(rows, rows.sum(1) - rows.sum(1).mean(), np.array([0, 1]))
        process.predict(rows)
        process.joint(rows)
        process.with_pending(rows[:1])
        assert threads() == before
    assert len(during) > 5
    assert all(found == {1} for found in during)
