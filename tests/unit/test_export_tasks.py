"""A task's exported network answers what its head answers: the one that evaluation scored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fusiform.attending import network, sight
from fusiform.beginning import Begun, Solved
from fusiform.config import ViTConfig
from fusiform.encoder import Encoder
from fusiform.errors import ConfigError, WeightsError
from fusiform.export import load_onnx
from fusiform.export.exporting import export_file
from fusiform.export.shown import patterns
from fusiform.export.task_graph import TaskGraph, require_as_head
from fusiform.goals import goal_with
from fusiform.infer.heads import TaskHead
from fusiform.infer.nets import ProbeNet, RidgeNet
from fusiform.infer.seen import Seen
from fusiform.measurement import EXACT_POINTS, Crop
from fusiform.protocols import AttentiveProbe, Dense, LinearProbe
from fusiform.tasks.action_units import ActionUnits
from fusiform.tasks.affect import Affect
from fusiform.tasks.age import Age
from fusiform.tasks.alignment import Alignment
from fusiform.tasks.attributes import Attributes
from fusiform.tasks.expression import Expression
from fusiform.tasks.face_attributes import FaceAttributes
from fusiform.tasks.gaze import Gaze
from fusiform.tasks.head_pose import HeadPose
from fusiform.tasks.parsing import Parsing

SET = Path("labels-are-not-needed")
VIT = ViTConfig(image_size=32, patch_size=8, width=48, depth=4, heads=3)
FACES, _ = patterns(32, 6)
TASKS = {
    "points": (Alignment(path=SET, dataset="rendered"), 136),
    "map": (Parsing(path=SET, dataset="rendered"), None),
    "pose": (HeadPose(path=SET), 6),
    "gaze": (Gaze(path=SET), 3),
    "classes": (Expression(path=SET, dataset="rendered"), None),
    "units": (ActionUnits(path=SET, dataset="rendered"), None),
    "attributes": (Attributes(path=SET), None),
    "public attributes": (FaceAttributes("celeba"), None),
    "affect": (Affect(path=SET, dataset="rendered"), 2),
    "age": (Age(path=SET, dataset="rendered"), None),
}


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    made = Encoder.untrained(VIT, Crop("loose", 40, EXACT_POINTS), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in made.vit.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=generator))
    return replace(made, card={"recipe": "x", "licence": "MIT"})


def targets(name: str) -> int:
    """Last axis of what a task encodes."""
    task, known = TASKS[name]
    if known:
        return known
    if name == "map":
        return 64 * len(task.classes)
    if name == "classes":
        return len(task.face_classes)
    if name == "attributes":
        return len(task.attributes) + 1
    if name == "age":
        return 1 if task.head == "value" else len(range(*task.ages))
    return len(task.units if name == "units" else task.attributes)


def linear_head(name: str, encoder: Encoder, *, layer: int | None = None) -> TaskHead:
    task = TASKS[name][0]
    form = "patches" if name == "map" else "cls+concat"
    seen = Seen(encoder, FACES).form(form, layer).reshape(-1, 48 if name == "map" else 17 * 48)
    draw = torch.Generator().manual_seed(4)
    weight = torch.randn(seen.shape[1], targets(name), generator=draw) / seen.shape[1] ** 0.5
    intercept = torch.rand(targets(name), generator=draw)
    mean, spread = torch.from_numpy(seen.mean(0)), torch.from_numpy(seen.std(0)).clamp_min(1e-3)
    net = RidgeNet(mean, 1 / spread, weight, intercept, form, layer)
    return TaskHead(name, task, LinearProbe(), net, 32, encoder.sha256, sharpness=2.5, about={"patch": 8})


@pytest.mark.parametrize("name", TASKS)
def test_the_network_answers_like_the_head(encoder, name):
    for layer in (None, 1):
        graph = TaskGraph(linear_head(name, encoder, layer=layer), encoder).eval()
        require_as_head(graph, encoder, FACES)


def test_a_network_that_answers_otherwise_is_refused(encoder):
    graph = TaskGraph(linear_head("points", encoder), encoder).eval()
    graph.intercept = graph.intercept + 0.01
    with pytest.raises(WeightsError, match="differ by"):
        require_as_head(graph, encoder, FACES)


PROBES = {
    "points": AttentiveProbe(head="heatmap", dense=Dense(width=16, heatmap_size=32)),
    "map": AttentiveProbe(head="upernet", dense=Dense(width=16)),
    "pose": AttentiveProbe(head="rotation-6d"),
    "gaze": AttentiveProbe(head="attentive"),
    "classes": AttentiveProbe(head="attentive"),
}


def probe_head(name: str, encoder: Encoder, protocol: AttentiveProbe) -> TaskHead:
    task, outputs = TASKS[name][0], targets(name)
    goal = goal_with(task, protocol, outputs, VIT.grid, lambda: (torch.zeros(outputs), torch.ones(outputs)))
    layers, with_class = sight(encoder, task, protocol, goal)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = network(encoder, task, protocol, goal).eval()
        if isinstance(net, Begun):
            seen = net.seen(torch.zeros(1, VIT.patches, VIT.width)).shape[-1]
            net.begin(Solved(0.02 * torch.randn(seen, outputs), torch.rand(outputs), 1.0, 2.0, None))
        for parameter in net.parameters():
            parameter.data.add_(0.1 * torch.randn(parameter.shape))
    kept = ProbeNet(net, goal, tuple(layers), with_class)
    return TaskHead(name, task, protocol, kept, 32, encoder.sha256, about={"patch": 8})


@pytest.mark.parametrize("begin", ["ridge", "mean"])
@pytest.mark.parametrize("name", PROBES)
def test_trained_heads_too(encoder, name, begin):
    graph = TaskGraph(probe_head(name, encoder, replace(PROBES[name], begin=begin)), encoder).eval()
    require_as_head(graph, encoder, FACES)


def test_bent_faces_are_refused_by_name(encoder):
    protocol = replace(PROBES["points"], tanh_warp=0.8)
    with pytest.raises(ConfigError, match="tanh warp"):
        TaskGraph(probe_head("points", encoder, protocol), encoder)


@pytest.mark.parametrize("name", ["points", "map", "pose"])
def test_a_model_with_a_head_becomes_one_file(encoder, name, tmp_path):
    pytest.importorskip("onnx", reason="needs fusiform[export]")
    called = {"points": "alignment", "map": "parsing", "pose": "head-pose"}[name]
    encoder.save(tmp_path)
    head = replace(linear_head(name, encoder), name=called)
    head.save(tmp_path)
    said = export_file(tmp_path, tmp_path / "task.onnx", what=called)
    model = load_onnx(tmp_path / "task.onnx")
    answer = model(FACES)[model.outputs[0]]
    expected = head.predict(Seen(encoder, FACES))
    if name == "map":
        assert answer.dtype == np.uint8
        assert (answer != expected).mean() < 1e-3
        assert "skin" in model.card["outputs"][0]["classes"]
    else:
        np.testing.assert_allclose(answer, expected, atol=1e-2 if name == "pose" else 1e-3)
    assert model.card["what"] == called
    assert model.card["head"]["task"] == called
    assert any(model.outputs[0] in line for line in said)
    with pytest.raises(ConfigError, match=f"Did you mean '{called}'"):
        export_file(tmp_path, tmp_path / "x.onnx", what=called[:-1])
