"""What happens around training: one behaviour per file."""

from .best_checkpoint import BestCheckpoint
from .case_table import CaseTable
from .checkpoint_step import CheckpointStep
from .choose_speed import ChooseSpeed
from .classification_plots import ClassificationPlots
from .early_stop import EarlyStop
from .epoch_seed import EpochSeed
from .finite_loss import FiniteLoss
from .last_checkpoint import LastCheckpoint
from .metrics_file import MetricsFile
from .peak_memory import PeakMemory
from .prediction_files import PredictionFiles
from .prediction_images import PredictionImages
from .run_manifest import RunManifest
from .start_from import StartFrom
from .step_time import StepTime
from .structured_sparsity import StructuredSparsity
from .sweep_pruning import SweepPruning
from .tensorboard_events import TensorBoardEvents
from .terminal_progress import TerminalProgress
from .wandb_run import WandbRun
from .weight_average import WeightAverage

__all__ = [
    "BestCheckpoint",
    "CaseTable",
    "CheckpointStep",
    "ChooseSpeed",
    "ClassificationPlots",
    "EarlyStop",
    "EpochSeed",
    "FiniteLoss",
    "LastCheckpoint",
    "MetricsFile",
    "PeakMemory",
    "PredictionFiles",
    "PredictionImages",
    "RunManifest",
    "StartFrom",
    "StepTime",
    "StructuredSparsity",
    "SweepPruning",
    "TensorBoardEvents",
    "TerminalProgress",
    "WandbRun",
    "WeightAverage",
]
