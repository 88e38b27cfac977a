"""Ways to run the same network faster, and the choice between them; torch only."""

from .choice import Choice, Timing, measure, pick
from .compiled import Compiled
from .fold import folded
from .heap import keep_memory
from .levers import Levers, inference_candidates, training_candidates
from .runner import Runner
from .training import choose_for_training
from .untouched import untouched
from .windows import WindowChooser

__all__ = [
    "Choice",
    "Compiled",
    "Levers",
    "Runner",
    "Timing",
    "WindowChooser",
    "choose_for_training",
    "folded",
    "inference_candidates",
    "keep_memory",
    "measure",
    "pick",
    "training_candidates",
    "untouched",
]
