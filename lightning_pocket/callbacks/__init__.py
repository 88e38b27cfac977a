"""What happens around training: one behaviour per file."""

from .best_checkpoint import BestCheckpoint
from .case_table import CaseTable
from .epoch_seed import EpochSeed
from .finite_loss import FiniteLoss
from .last_checkpoint import LastCheckpoint
from .metrics_file import MetricsFile
from .run_manifest import RunManifest
from .step_time import StepTime

__all__ = [
    "BestCheckpoint",
    "CaseTable",
    "EpochSeed",
    "FiniteLoss",
    "LastCheckpoint",
    "MetricsFile",
    "RunManifest",
    "StepTime",
]
