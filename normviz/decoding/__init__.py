"""Decoding, one file per paper or concept."""

from normviz.decoding.byte_lstm import ByteLSTM, StateCache
from normviz.decoding.cached_lm import CachedLM, TokenCache
from normviz.decoding.char_transformer import CharTransformer, KeyValueCache
from normviz.decoding.costs import CostReport, cost_report
from normviz.decoding.entropy import token_entropy
from normviz.decoding.entropy_adaptive import CACHE_POLICIES, EADResult, EntropyAdaptiveDecoder
from normviz.decoding.sampling import TokenSampler
from normviz.decoding.speculative import SpeculativeDecoder, SpeculativeResult
from normviz.decoding.switching import (
    EntropySwitchController,
    RandomSwitchController,
    SwitchController,
    SwitchDecision,
)
from normviz.decoding.threshold_sweep import (
    SimulatedSwitching,
    SweepPoint,
    simulate_switching,
    sweep_thresholds,
)

__all__ = [
    "CACHE_POLICIES",
    "ByteLSTM",
    "CachedLM",
    "CharTransformer",
    "CostReport",
    "EADResult",
    "EntropyAdaptiveDecoder",
    "EntropySwitchController",
    "KeyValueCache",
    "RandomSwitchController",
    "SimulatedSwitching",
    "SpeculativeDecoder",
    "SpeculativeResult",
    "StateCache",
    "SweepPoint",
    "SwitchController",
    "SwitchDecision",
    "TokenCache",
    "TokenSampler",
    "cost_report",
    "simulate_switching",
    "sweep_thresholds",
    "token_entropy",
]
