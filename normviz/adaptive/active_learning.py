"""Learning to actively learn: a policy of questions, trained against the hardest problems of every difficulty.

Zhang, Jain, Jamieson, "Learning to Actively Learn: A Robust Approach", 2020, arXiv 2010.15382 (an ICLR 2021
submission). The min-max objective, the two algorithms and their gradients are the paper's; network, rates, sampler,
projection and the solver of the complexity are ours.

===================================================  ================================
setting: actions, decisions, noise, loss             bandit_problem.py
complexity C(theta) and optimal design               design_complexity.py
classes Theta^(r): projection, sampling              complexity_classes.py
features, recommendation, policy network             history_policy.py
episodes, expected loss by enumeration               policy_rollout.py
policies from theory                                 query_policies.py
Algorithm B: policy against particles                adversarial_trainer.py
Algorithm A: classes, then the robust policy         robust_policy.py
animals and jokes                                    question_tables.py
===================================================  ================================
"""

from normviz.adaptive.adversarial_trainer import AdversarialTrainer, GradientEstimate
from normviz.adaptive.bandit_problem import BanditProblem
from normviz.adaptive.complexity_classes import project_to_class, sample_class
from normviz.adaptive.design_complexity import complexity, multi_armed_complexity
from normviz.adaptive.history_policy import HistoryPolicy, history_features, recommend
from normviz.adaptive.policy_rollout import Rollout, exact_expected_loss, rollout
from normviz.adaptive.query_policies import (
    GeneralizedBinarySearchPolicy,
    GreedyUncertaintyPolicy,
    OracleDesignPolicy,
    RagePolicy,
    RoundRobinPolicy,
    SuccessiveEliminationPolicy,
    UniformPolicy,
)
from normviz.adaptive.question_tables import (
    ANIMALS,
    JOKE_TRAITS,
    JOKES,
    QUESTIONS,
    animal_answers,
    joke_features,
)
from normviz.adaptive.robust_policy import RobustResult, learn_robust_policy

__all__ = [
    "ANIMALS",
    "JOKES",
    "JOKE_TRAITS",
    "QUESTIONS",
    "AdversarialTrainer",
    "BanditProblem",
    "GeneralizedBinarySearchPolicy",
    "GradientEstimate",
    "GreedyUncertaintyPolicy",
    "HistoryPolicy",
    "OracleDesignPolicy",
    "RagePolicy",
    "RobustResult",
    "Rollout",
    "RoundRobinPolicy",
    "SuccessiveEliminationPolicy",
    "UniformPolicy",
    "animal_answers",
    "complexity",
    "exact_expected_loss",
    "history_features",
    "joke_features",
    "learn_robust_policy",
    "multi_armed_complexity",
    "project_to_class",
    "recommend",
    "rollout",
    "sample_class",
]
