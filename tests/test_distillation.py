"""Students of a teacher: what they learn, and what stays out of their checkpoints."""

import copy
import csv
import json
import math
import os
import sys
from pathlib import Path

import pytest
import torch
from conftest import quick_options
from interruption import kill_after
from started import TRAINING, Started
from torch import nn

from lightning_pocket.cli import main
from lightning_pocket.errors import PocketError
from lightning_pocket.layers import Expansion, LayerFactory, WidthSchedule, is_expanded
from lightning_pocket.losses import hint_loss, similarity_loss, soft_target_loss
from lightning_pocket.networks import EncoderClassifier, UNet
from lightning_pocket.storage import sha256
from lightning_pocket.tasks import (
    ClassificationTask,
    Distillation,
    Hint,
    SegmentationTask,
    SimilarityTransfer,
    SoftTargets,
    load_task,
)

NETWORK = "--model.init_args.network.init_args"
KINDS = {"image": (EncoderClassifier, ClassificationTask), "map": (UNet, SegmentationTask)}


def network(kind: str, seed: int, base: int) -> nn.Module:
    torch.manual_seed(seed)
    return KINDS[kind][0](1, 3, spatial_dims=2, depth=2, widths=WidthSchedule(base=base, doublings=0))


def dataset() -> dict:
    return {"channels": ["grey"], "classes": ["a", "b", "c"], "patch_size": [8, 8]}


def save(path: Path, task: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> str:
    """Stand in for a checkpoint: the file is hashed, the task is this one."""
    path.write_bytes(b"weights")
    monkeypatch.setattr("lightning_pocket.tasks.loading.load_task", lambda _: task.eval())
    return str(path)


def batch(kind: str) -> dict:
    generator = torch.Generator().manual_seed(5)
    image = torch.randn(4, 1, 8, 8, generator=generator)
    subject = [f"s{index}" for index in range(4)]
    if kind == "image":
        return {"image": image, "target": torch.tensor([0, 1, 2, 0]), "subject": subject}
    return {"image": image, "label": torch.randint(3, (4, 8, 8), generator=generator), "subject": subject}


def taught(kind: str, method: Distillation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A student and its teacher, as at the beginning of training."""
    teacher = KINDS[kind][1](network(kind, 1, 6), dataset())
    method.source = save(tmp_path / "teacher.ckpt", teacher, monkeypatch)
    student = KINDS[kind][1](network(kind, 2, 4), dataset(), distillation=method)
    student.setup("fit")
    return student, teacher.network


@pytest.mark.parametrize("kind", list(KINDS))
def test_soft_targets_are_added_to_the_loss(kind, tmp_path, monkeypatch):
    student, teacher = taught(
        kind, SoftTargets(temperature=3, squared=True, weight=0.7, label_weight=0.4), tmp_path, monkeypatch
    )
    before, given = copy.deepcopy(teacher.state_dict()), batch(kind)
    twin = copy.deepcopy(student.network)
    loss = student.training_loss(given)
    logits = twin(given["image"])
    plain = student.loss(logits, given["target" if kind == "image" else "label"])
    answer = teacher.eval()(given["image"])
    expected = 0.4 * plain + 0.7 * soft_target_loss(logits, answer, 3, squared=True)
    torch.testing.assert_close(loss, expected)
    student.train()  # would reach a teacher that is a module of the student
    loss.backward()
    torch.optim.SGD(student.parameters(), 0.1).step()
    student.training_loss(given)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert {name.split(".")[0] for name in student.state_dict()} <= {"network", "loss"}
    own = {id(parameter) for parameter in student.configure_optimizers().param_groups[0]["params"]}
    assert own == {id(parameter) for parameter in student.network.parameters()}


@pytest.mark.parametrize(("kind", "layers"), [("image", None), ("map", None), ("map", ["encoder.1"])])
def test_features_are_those_of_the_named_layers(kind, layers, tmp_path, monkeypatch):
    student, teacher = taught(
        kind, SimilarityTransfer(student_layers=layers, teacher_layers=layers, label_weight=0), tmp_path, monkeypatch
    )
    twin, given, seen = copy.deepcopy(student.network), batch(kind), {}
    for name, model in (("student", twin), ("teacher", teacher)):
        for hooks in [module._forward_hooks for module in model.modules()] + [
            module._forward_pre_hooks for module in model.modules()
        ]:
            hooks.clear()
        if layers:
            model.get_submodule(layers[0]).register_forward_hook(lambda *args, n=name: seen.update({n: args[2]}))
        else:
            head = [
                module for module in model.modules() if isinstance(module, nn.Linear if kind == "image" else nn.Conv2d)
            ][-1]
            head.register_forward_pre_hook(lambda _, inputs, n=name: seen.update({n: inputs[0]}))
    student.distillation.teacher.read(student.distillation.teacher_layers, "")
    loss = student.training_loss(given)
    twin(given["image"])
    teacher.eval()(given["image"])
    vectors = [value if value.ndim == 2 else value.mean((2, 3)) for value in (seen["student"], seen["teacher"])]
    torch.testing.assert_close(loss, similarity_loss(*vectors))


def test_an_expanded_teacher_is_contracted_and_an_expanded_head_has_features(tmp_path, monkeypatch):
    """A fused head does not call its factors."""
    torch.manual_seed(0)
    layers = LayerFactory(expansion=Expansion("cl", select=["heads"]))
    teacher, student = (UNet(1, 3, 2, depth=1, widths=WidthSchedule(base=4), layers=layers) for _ in range(2))
    expected = copy.deepcopy(teacher).eval()
    method = SimilarityTransfer(save(tmp_path / "teacher.ckpt", SegmentationTask(teacher, dataset()), monkeypatch))
    task = SegmentationTask(student, dataset(), distillation=method)
    task.setup("fit")
    given = batch("map")
    answer, _ = method.teacher(given["image"])
    torch.testing.assert_close(answer, expected(given["image"]))
    assert not is_expanded(method.teacher.network)
    task.training_loss(given).backward()
    assert student.heads[0].factors[0].weight.grad.any()


def test_a_batch_of_one_has_no_neighbours(tmp_path, monkeypatch, caplog):
    student, _ = taught("map", SimilarityTransfer(label_weight=0), tmp_path, monkeypatch)
    given = batch("map")
    single = {key: value[:1] for key, value in given.items()}
    assert student.training_loss(given) > 0
    assert not caplog.messages
    for _ in range(2):
        assert student.training_loss(single) == 0
    assert [message for message in caplog.messages if "one image" in message] == caplog.messages[:1] != []


def test_regressors_are_trained_unless_they_are_not_to_be(tmp_path, monkeypatch):
    for mode, shape in (("joint", (6, 4, 1, 1)), ("never_optimised", (4, 6, 1, 1))):
        hint = Hint(student_layers=["encoder.1"], teacher_layers=["encoder.1"], regressor=mode)
        student, _ = taught("map", hint, tmp_path, monkeypatch)
        assert [tuple(regressor.weight.shape) for regressor in hint.regressors] == [shape]
        optimized = {id(parameter) for parameter in student.configure_optimizers().param_groups[0]["params"]}
        assert (id(hint.regressors[0].weight) in optimized) is (mode == "joint")
        student.training_loss(batch("map")).backward()
        assert (hint.regressors[0].weight.grad is None) is (mode != "joint")
        own, other = torch.randn(2, 4, 3, 3), torch.randn(2, 6, 3, 3)
        found = hint.added(torch.zeros(1), torch.zeros(1), None, [own], [other])
        weight, bias = hint.regressors[0].weight[:, :, 0, 0], hint.regressors[0].bias
        mapped = torch.einsum("oi,bihw->bohw", weight, own if mode == "joint" else other) + bias[:, None, None]
        torch.testing.assert_close(found, hint_loss(mapped, other if mode == "joint" else own))


def test_two_stages(tmp_path, monkeypatch):
    """In the first the hint alone moves what makes the features; in the second everything else but the hint does."""
    hint = Hint(student_layers=["encoder.0"], teacher_layers=["encoder.0"], regressor="two_stage", hint_epochs=2)
    student, _ = taught("map", hint, tmp_path, monkeypatch)
    optimizer = torch.optim.SGD(student.parameters(), 0.1, momentum=0.9, weight_decay=0.1)

    def moved(epoch: int) -> set[str]:
        monkeypatch.setattr(type(student), "current_epoch", epoch)
        monkeypatch.setattr(student, "_trainer", object())
        before = {name: value.detach().clone() for name, value in student.named_parameters()}
        optimizer.zero_grad()
        student.training_loss(batch("map")).backward()
        student.on_before_optimizer_step(optimizer)
        optimizer.step()
        return {name for name, value in student.named_parameters() if not torch.equal(value, before[name])}

    guided = {name for name, _ in student.named_parameters() if ".encoder.0." in name or "regressors" in name}
    everything = {name for name, _ in student.named_parameters()}
    biases = {name for name in everything if name.endswith("0.bias")}  # before a norm their gradient is rounding
    assert moved(0) - biases == moved(1) - biases == guided - biases
    assert moved(2) - biases == everything - biases - {name for name in guided if "regressors" in name}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher": ""}, "teacher: is not given"),
        ({"teacher": "nowhere"}, "nowhere: no such checkpoint"),
    ],
)
def test_teachers_that_are_not_there(settings, message):
    student = ClassificationTask(network("image", 0, 4), dataset(), distillation=SoftTargets(**settings))
    with pytest.raises(PocketError, match=message):
        student.setup("fit")


def test_teachers_of_other_data_and_layers_that_are_not_there(tmp_path, monkeypatch):
    for key, value in (("classes", ["a", "c", "b"]), ("channels", ["red"])):
        other = ClassificationTask(network("image", 1, 4), dataset() | {key: value})
        source = save(tmp_path / "teacher.ckpt", other, monkeypatch)
        student = ClassificationTask(network("image", 0, 4), dataset(), distillation=SoftTargets(source))
        with pytest.raises(PocketError, match=f"its {key} are"):
            student.setup("fit")
    with pytest.raises(PocketError, match="'nowhere', which is no module of EncoderClassifier"):
        taught("image", Hint(student_layers=["nowhere"], teacher_layers=["head"]), tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SoftTargets(temperature=0), "temperature: found 0"),
        (lambda: SoftTargets(temperature=math.nan), "temperature: found nan"),
        (lambda: SoftTargets(weight=0, label_weight=0), "not both 0"),
        (lambda: SoftTargets(weight=math.inf), "found inf and 1"),
        (lambda: SimilarityTransfer(eps=0), "eps: found 0"),
        (lambda: Hint(student_layers=["a"]), "1 student_layers and 0 teacher_layers"),
        (lambda: Hint(regressor="two_stage", hint_epochs=0), "hint_epochs: found 0"),
    ],
)
def test_settings_out_of_range(make, message):
    with pytest.raises(PocketError, match=message):
        make()


def arguments(cache: Path, run: Path, teacher: Path, preset: str, *more: str) -> list[str]:
    source = f"--model.init_args.distillation.init_args.teacher={teacher}"
    return ["fit", *quick_options(cache, run), f"--config={preset}", source, *more]


def tensors(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.e2e
@pytest.mark.parametrize("preset", ["distill_kd", "distill_hint", "distill_pkt"])
def test_students_train_test_and_are_rebuilt_without_their_teacher(preset, trained, blobs_cache, tmp_path):
    run, teacher = tmp_path / "run", tmp_path / "teacher.ckpt"
    teacher.write_bytes((trained / "checkpoints" / "last.ckpt").read_bytes())
    main(arguments(blobs_cache, run, teacher, preset, "--trainer.precision=bf16-mixed", f"{NETWORK}.depth=1"))
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["distillation"]["sha256"] == sha256(teacher)
    names = [name for name in tensors(run) if not name.startswith("network.")]
    assert all(name.startswith("distillation.regressors.") for name in names)
    assert bool(names) is (preset == "distill_hint")
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
        logged = [
            float(row["train/distillation_loss"]) for row in csv.DictReader(file) if row["train/distillation_loss"]
        ]
    assert len(logged) == 2
    assert len(logged) == 2 if preset == "distill_pkt" else logged[1] < logged[0]
    teacher.unlink()
    main(["test", f"--run_dir={run}"])
    task = load_task(run / "checkpoints" / "last.ckpt")
    assert all(torch.equal(value, tensors(run)[f"network.{name}"]) for name, value in task.network.state_dict().items())


@pytest.mark.e2e
@pytest.mark.parametrize("preset", ["distill_kd", "distill_hint"])
def test_a_teacher_has_the_precision_of_the_student(preset, trained, blobs_cache, tmp_path):
    more = ["--trainer.precision=64-true", "--trainer.max_epochs=1"]
    main(arguments(blobs_cache, tmp_path / "run", trained, preset, *more))
    found = {value.dtype for value in tensors(tmp_path / "run").values() if value.is_floating_point()}
    assert found == {torch.float64}


@pytest.mark.e2e
def test_a_student_continues_with_the_same_teacher_alone(trained, blobs_cache, tmp_path, fails):
    teacher = tmp_path / "teacher.ckpt"
    teacher.write_bytes((trained / "checkpoints" / "last.ckpt").read_bytes())
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    main(arguments(blobs_cache, whole, teacher, "distill_hint"))
    kill_after(arguments(blobs_cache, parts, teacher, "distill_hint"))
    kept = teacher.read_bytes()
    content = torch.load(teacher, weights_only=True)
    torch.save(content | {"other": 1}, teacher)
    assert "is not the file that this run began with" in fails(arguments(blobs_cache, parts, teacher, "distill_hint"))
    teacher.write_bytes(kept)
    main(arguments(blobs_cache, parts, teacher, "distill_hint"))
    one, other = tensors(whole), tensors(parts)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.e2e
def test_two_processes_have_the_same_regressor(trained, blobs_cache, tmp_path):
    two = ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.max_epochs=2"]
    more = ["--model.init_args.distillation.init_args.regressor=two_stage"]
    command = arguments(blobs_cache, tmp_path / "run", trained, "distill_hint", *two, *more)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    process = Started("several_commands:run", [json.dumps([command])], env=environment, imports=TRAINING)
    _, errors = process.communicate()
    assert process.returncode == 0, errors[-2000:]
    assert any("regressors" in name for name in tensors(tmp_path / "run"))
