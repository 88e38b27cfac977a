"""Which parameters of a study matter, by Optuna's PED-ANOVA, which needs nothing more to be installed."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .samplers import INFEASIBLE

if TYPE_CHECKING:
    from optuna import Study

#: Trials without which nothing is said, and how many of them are the best ones that the others are compared with.
FEWEST, BEST = 10, 5
_SHARE = 0.1  # of many trials so many are the best ones


@dataclass(frozen=True)
class Importance:
    """How much each parameter has to do with being among the best trials.

    Args:
        shares: Share of each parameter, all together 1, the largest first; empty where nothing can be said.
        best: How many of the best trials were looked at.
        trials: How many there are.
        reason: Why nothing can be said.
    """

    shares: dict[str, float] = field(default_factory=dict)
    best: int = 0
    trials: int = 0
    reason: str = ""


def importance(study: Study, objective: int) -> Importance:
    """Return the importance of each parameter for one objective.

    PED-ANOVA (Watanabe et al., IJCAI 2023) compares how the best trials are spread over the values of a parameter with
    how all trials are; of parameters that do not always count, `conditional PED-ANOVA`_ knows. Others of Optuna's
    evaluators need scikit-learn.

    Args:
        study: Optuna's study.
        objective: Index of the objective.

    .. _conditional PED-ANOVA: https://arxiv.org/abs/2601.20800
    """
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
    from optuna.study import StudyDirection
    from optuna.trial import TrialState

    study = _feasible(study)
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    sign = 1.0 if study.directions[objective] == StudyDirection.MINIMIZE else -1.0
    varied = {name for trial in done for name, entry in trial.distributions.items() if not entry.single()}
    if len(varied) < 2:
        return Importance(reason="there are no two parameters to compare")
    if len(done) < FEWEST:
        return Importance(reason=f"{len(done)} trials are done, and at least {FEWEST} are needed")
    scores = sorted(sign * trial.values[objective] for trial in done)
    share = max(_SHARE, BEST / len(done))
    limit = scores[math.ceil(share * len(done)) - 1]
    best = sum(score <= limit for score in scores)
    if best == len(done):
        return Importance(reason="the objective does not vary, or so many trials share its worst value")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the sign, which is turned, and about values with a single trial
        found = get_param_importances(
            study,
            evaluator=PedAnovaImportanceEvaluator(target_quantile=share),
            target=lambda trial: sign * trial.values[objective],
            normalize=False,
        )
    total = sum(found.values())
    if not total > 0:
        return Importance(reason="the best trials are spread over all values like the others")
    return Importance({name: value / total for name, value in found.items()}, best, len(done))


def _feasible(study: Study) -> Study:
    """Return a study without the trials that cannot be: their values only stand in."""
    import optuna

    trials = study.get_trials(deepcopy=False)
    kept = [trial for trial in trials if INFEASIBLE not in trial.user_attrs]
    if len(kept) == len(trials):
        return study
    others = optuna.create_study(directions=study.directions)
    others.add_trials(kept)
    return others
