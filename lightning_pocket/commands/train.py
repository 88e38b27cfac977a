"""Train, validate and test through LightningCLI."""

from __future__ import annotations

import contextlib
import logging
import re
import time
import warnings
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import LightningDataModule, Trainer
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from typing_extensions import override

import lightning_pocket.callbacks
import lightning_pocket.data.augment
import lightning_pocket.data.image_module
import lightning_pocket.data.image_stream
import lightning_pocket.data.sampling
import lightning_pocket.data.volumes
import lightning_pocket.losses
import lightning_pocket.networks  # noqa: F401 (configs name classes without their modules)
from lightning_pocket.callbacks import BestCheckpoint, EarlyStop, PredictionFiles, StartFrom, TerminalProgress
from lightning_pocket.errors import PocketError
from lightning_pocket.launch import configs_folder, with_configs
from lightning_pocket.layers import deployed_parameters, is_expanded
from lightning_pocket.layers.group_sizes import smaller_groups
from lightning_pocket.memory_advice import MemoryAdvice
from lightning_pocket.parsing import ClearErrors
from lightning_pocket.reports.failures import record_failure
from lightning_pocket.reports.run_summary import summarize_test, summarize_training
from lightning_pocket.reports.tested import forget_test, record_test, state_of
from lightning_pocket.run_folder import RunFolder, show_differences
from lightning_pocket.storage import load_yaml
from lightning_pocket.studies.run_settings import NOT_RECORDED
from lightning_pocket.tasks import BaseTask, start_from

#: What torch says when weights do not fit a network.
MISFIT = "loading state_dict"

#: Messages of Lightning that advertise, or warn of what our configs do on purpose.
NOISE = (
    "args parameter is intended to run from within Python",
    "does not have many workers",
    "litlogger",
    "litmodels",
    "smaller than the logging interval",
    "TPU available",
    "exists and is not empty",  # a run that continues
    "treespec, LeafSpec",
    "`weights_only` was not set",
)


def train(arguments: list[str]) -> None:
    """Run ``fit``, ``validate`` or ``test``.

    Args:
        arguments: The command's name and its options.

    Raises:
        PocketError: If the user must mend something.
    """
    _silence()
    cli = _for_command(arguments[0])
    cli(
        BaseTask,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_callback=None,
        seed_everything_default=0,
        auto_configure_optimizers=False,
        parser_class=TrainingParser,
        parser_kwargs={
            name: {"default_config_files": [str(configs_folder() / "defaults.yaml")]} for name in cli.subcommands()
        },
        args=_with_configs(arguments),
    )


class TrainingParser(ClearErrors, LightningArgumentParser):
    """Lightning's parser with clear errors, which does not complete abbreviated options."""

    @override
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs | {"allow_abbrev": False})


class PocketCLI(LightningCLI):
    """LightningCLI in which each run has a folder, continues by itself, and is sized after its data."""

    @override
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with contextlib.ExitStack() as self._held:  # everything happens in here, the training too
            super().__init__(*args, **kwargs)

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--run_dir", type=str, default="runs/default", help="Folder of the run, one per run.")
        parser.add_argument(
            "--fresh", type=bool, default=False, nargs="?", const=True, help="Delete this run and start it over."
        )
        parser.add_argument(
            "--start_from",
            type=str | None,
            default=None,
            help="Checkpoint, or folder of a run, whose weights `fit` begins with where they fit (fine-tuning).",
        )
        parser.add_class_arguments(TerminalProgress, "progress")
        network = "model.init_args.network.init_args"
        parser.link_arguments("data.in_channels", f"{network}.in_channels", apply_on="instantiate")
        parser.link_arguments("data.num_classes", f"{network}.out_channels", apply_on="instantiate")
        parser.link_arguments("data.info", "model.init_args.dataset", apply_on="instantiate")

    @override
    def _parse_ckpt_path(self) -> None:
        """Nothing: Lightning would let the checkpoint's hyper-parameters win over options without a word."""

    @override
    def _dump_config(self) -> None:
        """Keep the config as plain values, without a second check of what has just been parsed.

        Lightning checks here again, which takes longer than all the rest of this method.
        """
        if not hasattr(self, "config_dump"):
            text = self.parser.dump(
                self.config, skip_link_targets=False, skip_unset=False, skip_validation=True, format="yaml"
            )
            self.config_dump = load_yaml(text)[self.subcommand]

    @override
    def before_instantiate_classes(self) -> None:
        options = self.config[self.subcommand]
        self.run = RunFolder(Path(options.run_dir))
        options.trainer.default_root_dir = options.run_dir
        steps = options.trainer.accumulate_grad_batches
        if isinstance(steps, int) and steps < 1:
            raise PocketError(f"trainer.accumulate_grad_batches: found {steps}; give at least 1 batch.")
        for logger in _as_list(options.trainer.logger):
            logger.init_args.save_dir = options.run_dir
            is_usable = getattr(resolve_name(logger.class_path), "is_usable", None)
            # Asked here: jsonargparse buries what a logger raises when it is made.
            if is_usable is not None and not is_usable(logger.init_args):
                options.trainer.logger = [other for other in options.trainer.logger if other is not logger]
        if self.subcommand != "fit" and hasattr(options.data.init_args, "cache"):
            options.data.init_args.cache = self.run.find_cache(options.data.init_args.cache)
        if self.subcommand == "validate":  # the curves are the training's
            options.trainer.logger = False
        if self.subcommand == "fit":
            if options.start_from is not None and options.ckpt_path is not None:
                raise PocketError("--start_from and --ckpt_path both name first weights. Give one of them.")
            self._held.enter_context(self.run.locked())
            self.settings = self._settings()
            self.run.begin(self.settings, fresh=bool(options.fresh))
        options.ckpt_path = self.run.checkpoint(self.subcommand, options.ckpt_path)

    @override
    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except MisconfigurationException as error:
            raise PocketError(f"trainer: {error}") from error
        if self.config[self.subcommand].start_from is not None:  # its checkpoints ask for this callback
            self.started = StartFrom()
            self.trainer.callbacks.insert(0, self.started)  # type: ignore[attr-defined]

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        options = self.config_init[self.subcommand]
        given = options.trainer.callbacks or []
        callbacks = given if isinstance(given, list) else [given]
        chosen = any(isinstance(callback, ProgressBar) for callback in callbacks)
        if options.trainer.enable_progress_bar is not False and not chosen:
            self._held.callback(options.progress.close)  # however the command ends, the terminal is left as it was
            kwargs["callbacks"] = [*callbacks, options.progress]
        return super().instantiate_trainer(**kwargs)

    def before_fit(self) -> None:
        """Check what would otherwise fail after hours, then record the config."""
        record = getattr(self.datamodule, "record", {})
        validated = bool(record.get("split", {}).get("val", True))
        _check_monitors(self.model, self.trainer.callbacks, validated)  # type: ignore[attr-defined]
        _check_optimizer(self.model, self.trainer)
        self.run.check_data(record)
        self._start_from(self.config[self.subcommand])  # before --fresh deletes anything
        self.run.start(self.settings)
        network = self.model.network
        parameters = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
        deployed = f" ({deployed_parameters(network):,} once contracted)" if is_expanded(network) else ""
        self.trainer.print(f"{type(network).__name__}: {parameters:,} parameters{deployed}; run folder {self.run.path}")
        for line in smaller_groups(network):
            self.trainer.print(line)

    def _start_from(self, options: Any) -> None:
        """Take the first weights from a file or another run, unless this one already has weights of its own."""
        if options.ckpt_path is not None:
            return
        read = self.model.network.load_pretrained()
        if read:
            self.trainer.print(read)
        if options.start_from is not None:
            start = start_from(self.model, options.start_from)
            self.started.record = start.record
            self.trainer.print(start)

    def fit(self, **kwargs: Any) -> None:
        """Train, unless the run is already finished."""
        if self.run.finished:
            self.trainer.print(f"{self.run.path}: already finished. {self._next_step()}")
            return
        if kwargs.get("ckpt_path"):
            self.trainer.print(f"{self.run.path}: continuing from {kwargs['ckpt_path']}")
        advice = MemoryAdvice(self.model, self.trainer, getattr(self.datamodule, "batch_size", 1))
        try:
            self.trainer.fit(**kwargs)
        except SystemExit:
            if self.trainer.interrupted:  # Lightning turns Ctrl-C into a silent exit
                raise KeyboardInterrupt from None
            raise
        except Exception as error:
            clear = advice.explain(error) or _misfit(error, kwargs["ckpt_path"])
            self._leave(error, clear)
            if clear is None:
                raise
            raise clear from error
        if self.trainer.is_global_zero:
            self.trainer.print(f"finished: {self.run.path}\n{summarize_training(self.run.path)}")

    def _next_step(self) -> str:
        """Return what can be done with a trained run."""
        held_out = getattr(self.datamodule, "record", {}).get("split", {}).get("test", True)
        return f"`pocket test --run_dir {self.run.path}` scores it." if held_out else "No case is held out for a test."

    def _leave(self, error: Exception, clear: PocketError | None) -> None:
        """Leave behind why training failed, or nothing where it had not begun."""
        if self.trainer.global_step == 0:
            self.run.forget()
        if self.trainer.is_global_zero:
            record_failure(self.run.path, error, clear, self.trainer.current_epoch, self.trainer.global_step)

    def test(self, **kwargs: Any) -> None:
        """Test, without the table of means that Lightning adds below ours, and record what was tested."""
        record = getattr(self.datamodule, "record", {})
        self.run.check_held_out(record)
        if not self.run.finished:
            self.trainer.print(f"{self.run.path}: training has not finished; these are the scores so far.")
        state, began = state_of(self.run.path, record), time.monotonic()
        if self.trainer.is_global_zero:
            forget_test(self.run.path)
        try:
            self.trainer.test(**kwargs | {"verbose": False})
        except RuntimeError as error:
            misfit = _misfit(error, kwargs["ckpt_path"])
            if misfit is None:
                raise
            raise misfit from error
        if self.trainer.is_global_zero:
            seconds = round(time.monotonic() - began, 3)
            record_test(self.run.path, state | self._tested(Path(kwargs["ckpt_path"])) | {"seconds": seconds})
            self.trainer.print(f"tested: {self.run.path}\n{summarize_test(self.run.path)}")

    def _tested(self, checkpoint: Path) -> dict[str, Any]:
        """Return what was tested, and how."""
        own = checkpoint.resolve().parent == self.run.last.resolve().parent
        saved = load_yaml(self.run.config.read_text(encoding="utf-8")) if self.run.config.is_file() else {}
        files = any(isinstance(callback, PredictionFiles) for callback in self.trainer.callbacks)  # type: ignore[attr-defined]
        return {
            "checkpoint": checkpoint.stem if own else str(checkpoint),
            "largest_component": getattr(self.model, "largest_component", False),
            "changed": show_differences({"model": saved.get("model")}, {"model": self._settings()["model"]}),
            "label_maps": files and (self.run.path / "test" / "predictions").is_dir(),
        }

    def _settings(self) -> dict[str, Any]:
        """Return the config as plain values, without what does not change the result."""
        parser = self._parser(self.subcommand)
        options = self.config[self.subcommand]
        text = parser.dump(options, skip_link_targets=True, skip_unset=False, skip_validation=True, format="yaml")
        settings: dict[str, Any] = load_yaml(text)
        for key in ("config", *NOT_RECORDED):
            settings.pop(key, None)
        return settings


def _for_command(command: str) -> type[PocketCLI]:
    """Return the CLI that knows this command alone: making the parsers of the others takes longer than using one."""

    class OneCommand(PocketCLI):
        @staticmethod
        @override
        def subcommands() -> dict[str, set[str]]:
            return {command: LightningCLI.subcommands()[command]}

    return OneCommand


def _misfit(error: Exception, checkpoint: str | None) -> PocketError | None:
    """Return a clear error for weights that do not fit the network, None if the error is another."""
    if MISFIT not in str(error):
        return None
    return PocketError(
        f"{checkpoint}: the checkpoint does not fit this network: {str(error).splitlines()[1].strip()} "
        "Give the settings it was trained with."
    )


def _with_configs(arguments: list[str]) -> list[str]:
    """Find configs by name, and put the saved config of the run before the options of ``test`` and ``validate``."""
    expanded = with_configs(arguments)
    if expanded[0] == "fit":
        return expanded
    saved = RunFolder(Path(_option(expanded, "--run_dir") or "runs/default")).config
    if saved.is_file():
        return [expanded[0], f"--config={saved}", *expanded[1:]]
    if {"-h", "--help", "--print_config", "--config"} & {argument.partition("=")[0] for argument in expanded}:
        return expanded
    raise PocketError(f"--run_dir {saved.parent}: no run here (no {saved.name}). Train first with `pocket fit`.")


def _option(arguments: list[str], name: str) -> str | None:
    for position, argument in enumerate(arguments):
        if argument.startswith(f"{name}="):
            return argument.partition("=")[2]
        if argument == name and position + 1 < len(arguments):
            return arguments[position + 1]
    return None


def _check_optimizer(task: BaseTask, trainer: Trainer) -> None:
    """Refuse settings that torch would refuse with a traceback when training begins."""
    try:
        made = task.configure_optimizers()
    except (ValueError, TypeError, AssertionError, RuntimeError) as error:
        reason = str(error).removesuffix(".")
        raise PocketError(f"model.init_args.optimizer or lr_scheduler: {reason}.") from error
    optimizer = made["optimizer"] if isinstance(made, dict) else made
    scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
    if scaled and trainer.gradient_clip_val and getattr(optimizer, "_step_supports_amp_scaling", False):
        raise PocketError(
            "model.init_args.optimizer.init_args.fused: is true, but a fused optimizer cannot clip float16 gradients. "
            "Set it to false, leave trainer.gradient_clip_val out, or take --config bfloat16."
        )


def _check_monitors(task: BaseTask, callbacks: list[Any], validated: bool) -> None:
    monitors = {}
    for callback in callbacks:
        ours = isinstance(callback, BestCheckpoint | EarlyStop)
        watched = getattr(callback, "monitor", None) or (task.score if ours else None)
        if watched is not None:
            monitors[f"the monitor of {type(callback).__name__}"] = watched
    if task.make_scheduler is not None:
        monitors["model.init_args.monitor"] = task.monitor
    for owner, name in monitors.items():
        if name not in task.metric_names:
            raise PocketError(
                f"{owner}: no metric is called {name!r}. {type(task).__name__} logs {', '.join(task.metric_names)}."
            )
        if name.startswith("val/") and not validated:
            raise PocketError(
                f"{owner}: watches {name!r}, but there are no validation cases. Raise "
                "data.init_args.split.val_fraction, or watch train/loss."
            )


def _as_list(value: Any) -> list[Any]:
    entries = value if isinstance(value, list) else [value]
    return [entry for entry in entries if hasattr(entry, "init_args")]


def _silence() -> None:
    """Drop advertisements and warnings that no user can act on."""
    for text in NOISE:
        warnings.filterwarnings("ignore", message=f".*{re.escape(text)}")
    quiet = logging.Filter()
    quiet.filter = lambda record: not any(text in record.getMessage() for text in NOISE)  # type: ignore[method-assign]
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(quiet)
