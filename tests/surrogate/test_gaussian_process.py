"""The process against scikit-learn's, its gradient against differences, its fit against what made
the values."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg, optimize
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
    weights, scale, noise = np.array([4.0, 0.5, 9.0]), 1.7, 0.05
    ours = GaussianProcess(
        rows=rows, values=values, groups=np.arange(3), weights=weights, scale=scale, noise=noise
    )
    kernel = ConstantKernel(scale) * Matern(length_scale=1 / np.sqrt(weights), nu=2.5)
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
    distances = gaussian_process._distances(rows, np.array([0, 1, 1, 2]), 3)

    def loss(x):
        return gaussian_process._negative_log_posterior(x, distances, values, 0.3)

    for _ in range(3):
        at = generator.standard_normal(5)
        numeric = optimize.approx_fprime(at, lambda x: loss(x)[0], 1e-6)
        assert loss(at)[1] == pytest.approx(numeric, rel=1e-3, abs=1e-3)


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
