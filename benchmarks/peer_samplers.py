"""Optuna's Gaussian process and multivariate TPE, SMAC3 and Ax, as their own users have them.

    pip install smac ax-platform     # each is left out where it is missing

Conditions are told to SMAC and TPE. What cannot be trained is told as violating a constraint where
these are modelled (Optuna, Ax), and as crashed with the worst cost so far to SMAC, whose model is
fitted anew for each point (its own default is every eighth).
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

from common import tell
from search_peers import Peer, Values

from search_spaces.domains import Choice, Domain, Float, is_ordered


class OptunaGp(Peer):
    package = "torch"  # it needs it

    def begin(self, seed: int) -> None:
        import optuna

        self._distributions = {p: self._distribution(d) for p, d in self.space.axes.items()}
        self._study = optuna.create_study(sampler=self._sampler(seed))

    def _sampler(self, seed: int) -> Any:
        import optuna

        return optuna.samplers.GPSampler(seed=seed, warn_independent_sampling=False)

    @staticmethod
    def _distribution(domain: Domain) -> Any:
        from optuna.distributions import CategoricalDistribution as Categorical
        from optuna.distributions import FloatDistribution, IntDistribution

        if isinstance(domain, Choice):
            num = len(domain.values)
            return IntDistribution(0, num - 1) if is_ordered(domain) else Categorical(range(num))
        kind = FloatDistribution if isinstance(domain, Float) else IntDistribution
        return kind(domain.low, domain.high, log=domain.log)

    def ask(self) -> tuple[Any, Values]:
        trial = self._study.ask(self._distributions)
        return trial, trial.params

    def answer(self, handle: Any, value: float | None) -> None:
        if self.is_refusing:
            handle.set_constraint("refused", 1.0 if value is None else -1.0)
        self._study.tell(handle, self.worst if value is None else value)

    def attached(self, values: Values) -> Any:
        self._study.enqueue_trial(self.codes_of(values, whole=True))
        return self._study.ask(self._distributions)


class OptunaTpe(OptunaGp):
    package = "optuna"

    def _sampler(self, seed: int) -> Any:
        import optuna

        return optuna.samplers.TPESampler(seed=seed, multivariate=True)

    def ask(self) -> tuple[Any, Values]:
        trial = self._study.ask()
        return trial, self._asked_of(trial)

    def _asked_of(self, trial: Any) -> Values:
        codes: dict[str, Any] = {}
        for path, distribution in self._distributions.items():
            values = self._decoded(codes)
            if all(c.holds(values) for c in self.space.all_conditions if c.axis == path):
                codes[path] = trial._suggest(path, distribution)
        return codes

    def attached(self, values: Values) -> Any:
        self._study.enqueue_trial(self.codes_of(values, whole=False))
        trial = self._study.ask()
        self._asked_of(trial)
        return trial


class Smac(Peer):
    """Its facade for hyperparameters; a configuration is trained once."""

    package = "smac"

    def begin(self, seed: int) -> None:
        from smac import HyperparameterOptimizationFacade as Facade
        from smac import Scenario

        self._configspace, self._folder = self._made_space(seed), tempfile.TemporaryDirectory()
        scenario = Scenario(
            self._configspace,
            deterministic=True,
            n_trials=self.trials,
            seed=seed,
            output_directory=self._folder.name,
        )
        self._smac = Facade(
            scenario,
            lambda config, seed: 0.0,
            config_selector=Facade.get_config_selector(scenario, retrain_after=1),
            logging_level=False,
            overwrite=True,
        )

    def _made_space(self, seed: int) -> Any:
        import ConfigSpace

        made = ConfigSpace.ConfigurationSpace(seed=seed)
        for path, domain in self.space.axes.items():
            match domain:
                case Choice(values) if is_ordered(domain):
                    made.add(ConfigSpace.UniformIntegerHyperparameter(path, 0, len(values) - 1))
                case Choice(values):
                    made.add(ConfigSpace.CategoricalHyperparameter(path, range(len(values))))
                case Float(low=low, high=high, log=log):
                    made.add(ConfigSpace.UniformFloatHyperparameter(path, low, high, log=log))
                case _:
                    low, high, log = domain.low, domain.high, domain.log
                    made.add(ConfigSpace.UniformIntegerHyperparameter(path, low, high, log=log))
        for path in self.space.axes:
            told = [self._told(c, made) for c in self.space.all_conditions if c.axis == path]
            if told:
                made.add(ConfigSpace.AndConjunction(*told) if len(told) > 1 else told[0])
        return made

    def _told(self, condition: Any, made: Any) -> Any:
        import ConfigSpace

        values = self.space.axes[condition.on].values
        allowed = [i for i, value in enumerate(values) if condition.holds({condition.on: value})]
        return ConfigSpace.InCondition(made[condition.axis], made[condition.on], allowed)

    def ask(self) -> tuple[Any, Values]:
        info = self._smac.ask()
        return info, dict(info.config)

    def answer(self, handle: Any, value: float | None) -> None:
        from smac.runhistory import StatusType, TrialValue

        status = StatusType.CRASHED if value is None else StatusType.SUCCESS
        cost = self.worst if value is None else value
        self._smac.tell(handle, TrialValue(cost=cost, status=status), save=False)

    def attached(self, values: Values) -> Any:
        import ConfigSpace
        from smac.runhistory import TrialInfo

        config = ConfigSpace.Configuration(
            self._configspace, values=self.codes_of(values, whole=False)
        )
        return TrialInfo(config=config, seed=self._smac.intensifier._tf_seeds[0])


class Ax(Peer):
    package = "ax"

    def begin(self, seed: int) -> None:
        from ax.api.client import Client
        from ax.utils.common.logger import set_ax_logger_levels

        set_ax_logger_levels(logging.ERROR)  # it tells of every trial
        self._client = Client(random_seed=seed)
        self._names = {f"x{i}": path for i, path in enumerate(self.space.axes)}
        self._client.configure_experiment(
            parameters=[self._parameter(n, self.space.axes[p]) for n, p in self._names.items()]
        )
        constraints = ["refused <= 0.5"] if self.is_refusing else []
        self._client.configure_optimization(objective="-cost", outcome_constraints=constraints)

    @staticmethod
    def _parameter(name: str, domain: Domain) -> Any:
        from ax.api.configs import ChoiceParameterConfig, RangeParameterConfig

        if isinstance(domain, Choice):
            ranks = list(range(len(domain.values)))
            return ChoiceParameterConfig(
                name=name, values=ranks, parameter_type="int", is_ordered=is_ordered(domain)
            )
        return RangeParameterConfig(
            name=name,
            bounds=(domain.low, domain.high),
            parameter_type="float" if isinstance(domain, Float) else "int",
            scaling="log" if domain.log else "linear",
        )

    def ask(self) -> tuple[Any, Values]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ((handle, parameters),) = self._client.get_next_trials(max_trials=1).items()
        return handle, {self._names[name]: code for name, code in parameters.items()}

    def answer(self, handle: Any, value: float | None) -> None:
        told = {} if value is None else {"cost": value}
        if self.is_refusing:
            told["refused"] = float(value is None)
        if told:
            self._client.complete_trial(handle, raw_data=told)
        else:
            self._client.mark_trial_abandoned(handle)

    def attached(self, values: Values) -> Any:
        codes = self.codes_of(values, whole=True)
        return self._client.attach_trial({n: codes[p] for n, p in self._names.items()})


PEERS: dict[str, type[Peer]] = {
    "optuna-gp": OptunaGp,
    "optuna-tpe": OptunaTpe,
    "smac": Smac,
    "ax": Ax,
}


def installed(names: Iterable[str], *, trials: int) -> dict[str, Peer]:
    found = {}
    for name in names:
        if find_spec(PEERS[name].package):
            found[name] = PEERS[name](trials)
        else:
            tell(f"{name} is left out: {PEERS[name].package} is not installed")
    return found
