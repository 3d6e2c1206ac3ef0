"""Our interpretation of PaCo-FR against numbers computed from the same interpretation, written independently.

No code of PaCo-FR is published: these numbers pin our reading down and prove no parity with the authors. Sizes and
weights come from each file's `config_json`; FUSIFORM_FIXTURES may name a folder with others of the same format
(`paco_*.npz`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numbers_of import Stored, cases, config_of, load, relative, set_eps, under
from torch import Tensor

from fusiform import recipes
from fusiform.config import ViTConfig
from fusiform.faces.align import template
from fusiform.methods.paco_fr import PaCoFR
from fusiform.nn.masking import mask_from_hidden
from fusiform.nn.patches import patchify
from fusiform.nn.regions import region_map
from fusiform.objectives import nearest_codes
from fusiform.recipes.paco_fr import PaCoFRConfig

PARTS = {
    "rec": "pixels",
    "align": "alignment",
    "seam": "seams",
    "rel": "relations",
    "use": "usage",
    "bel": "belief",
}
ENCODER = {"cls": "cls_token", "pos": "pos_embed", "emb": "patch_embed.proj", "enc": "blocks", "norm": "norm"}
DECODER = {"dproj": "embed", "dpos": "pos_embed", "dec": "blocks", "dnorm": "norm", "pred": "pred"}
BELIEF = {"0": "norm", "1": "hidden", "3": "out"}
BLOCK = {"n1": "norm1", "qkv": "attn.qkv", "o": "attn.proj", "n2": "norm2", "f1": "mlp.fc1", "f2": "mlp.fc2"}
TOLERANCE = 1e-6


def our_name(theirs: str) -> str:
    first, *rest = theirs.split(".")
    if first == "codebook":
        return "codebook.codes"
    if first == "bel":
        return f"belief_predictor.{BELIEF[rest[0]]}.{rest[1]}"
    if first in ("enc", "dec"):
        rest[1] = BLOCK[rest[1]]
    place, names = ("encoder", ENCODER) if first in ENCODER else ("decoder", DECODER)
    return ".".join([place, names[first], *rest])


def build(config: dict[str, Any], weights: dict[str, Tensor]) -> PaCoFR:
    weighting = config["weights"]
    settings = PaCoFRConfig(
        mask_ratio=config["mask_ratio"],
        codes=config["codes"],
        candidates=config["candidates"],
        temperature=config["tau"],
        belief_width=config["belief_hidden"],
        decoder_width=config["decoder_dim"],
        decoder_depth=config["decoder_depth"],
        decoder_heads=config["decoder_heads"],
        alignment_weight=weighting["align"],
        seams_weight=weighting["seam"],
        relations_weight=weighting["rel"],
        usage_weight=weighting["use"],
        belief_weight=weighting["bel"],
    )
    vit = ViTConfig(
        image_size=config["grid"] * config["patch"],
        patch_size=config["patch"],
        width=config["dim"],
        depth=config["depth"],
        heads=config["heads"],
        mlp_ratio=config["mlp_ratio"],
    )
    method = settings.build(vit).double()
    set_eps(method, config["ln_eps_blocks"])
    method.belief_predictor.norm.eps = config["ln_eps_belief"]
    state = method.state_dict()
    named = {our_name(theirs): value.double() for theirs, value in weights.items()}
    projection, p = "encoder.patch_embed.proj.weight", config["patch"]
    named[projection] = named[projection].reshape(-1, p, p, 3).permute(0, 3, 1, 2)
    buffers = {f"codebook.{name}" for name in ("uses", "filled", "dead", "replaced")}
    method.load_state_dict({**named, **{name: state[name] for name in buffers}}, strict=True)
    return method


@pytest.fixture(params=cases("paco_", "region_map"))
def case(request: pytest.FixtureRequest, fixtures_dir: Path) -> Stored:
    return load(fixtures_dir, request.param)


@pytest.mark.parametrize("phase", ["incubation", "main"])
def test_every_loss_and_every_gradient(case: Stored, phase: str) -> None:
    config = config_of(case)
    method = build(config, under(case, "sd/"))
    patches = patchify(torch.from_numpy(case["img"]).double(), config["patch"])
    mask = mask_from_hidden(torch.from_numpy(case["mask"]))
    regions = torch.from_numpy(case["region_map"]).flatten().expand(len(patches), -1)

    losses = method.losses(patches, regions, mask, incubating=phase == "incubation")
    losses.total.backward()

    assert relative(losses.total, case[f"{phase}/loss"]) < TOLERANCE
    for theirs, ours in PARTS.items():
        assert relative(losses.parts[ours], case[f"{phase}/{theirs}"]) < TOLERANCE, ours
    names = {our_name(k.split("/gradnorm/")[1]): k for k in case if k.startswith(f"{phase}/gradnorm/")}
    gradients = {name: p.grad for name, p in method.named_parameters() if p.requires_grad}
    assert names.keys() == gradients.keys()
    for name, key in names.items():
        assert relative(gradients[name].norm(), case[key]) < TOLERANCE, name


def test_what_lies_between(case: Stored) -> None:
    config = config_of(case)
    method = build(config, under(case, "sd/"))
    patches = patchify(torch.from_numpy(case["img"]).double(), config["patch"])
    hidden = torch.from_numpy(case["mask"]).unsqueeze(-1)
    logits = method.belief_predictor(patches)
    values, candidates = logits.topk(config["candidates"], dim=-1)
    mixed = method.codebook.mixture(logits, candidates, config["tau"])
    tokens = method.encoder.encode(torch.where(hidden, mixed, patches))
    ours = {
        "logits": logits,
        "cand": candidates,
        "w": (values / config["tau"]).softmax(-1),
        "target_q": nearest_codes(method.codebook.distances(patches), config["candidates"]),
        "feats": tokens,
        "pred": method.decoder(tokens),
    }
    aux = {k.split("/aux/")[1]: torch.from_numpy(v) for k, v in case.items() if k.startswith("incubation/aux/")}
    assert aux.keys() <= ours.keys()
    for name, theirs in aux.items():
        assert relative(ours[name], theirs) < TOLERANCE, name
    by_hand = (aux["w"].unsqueeze(-1) * method.codebook.codes[aux["cand"].long()]).sum(-2)
    assert relative(mixed, by_hand.detach()) < TOLERANCE


def test_regions_of_the_whole_crop(case: Stored) -> None:
    points = [[x / 112, y / 112] for x, y in template("arcface", 112).points]
    grid = config_of(case)["grid"]
    ours = region_map(points, grid, [[0, 0, 1, 1]], [False])
    assert np.array_equal(ours[0], case["region_map"].ravel())


def test_masks_are_whole_regions_but_for_one(case: Stored) -> None:
    config = config_of(case)
    regions = case["region_map"].ravel()
    for hidden in case["mask"]:
        assert hidden.sum() == round(hidden.size * config["mask_ratio"])
        shares = [hidden[regions == region].mean() for region in np.unique(regions)]
        assert sum(0 < share < 1 for share in shares) <= 1


def test_the_recipe_has_the_settings_of_our_reading() -> None:
    recipe = recipes.find("paco-fr")
    method = recipe.method
    assert (method.codes, method.candidates, method.temperature, method.mask_ratio) == (2048, 4, 1.0, 0.5)
    assert (method.belief_width, method.decoder_width, method.decoder_depth) == (512, 512, 2)
    weights = [getattr(method, f"{name}_weight") for name in ("alignment", "seams", "relations", "usage", "belief")]
    assert weights == [1.0, 0.1, 0.1, 0.01, 1.0]
    assert recipe.data.crop_scale == (0.8, 1.0)
    assert (recipe.optim.epochs, recipe.optim.faces_per_step, recipe.optim.warmup_epochs) == (100, 1024, 5)
    assert recipe.optim.peak_lr == pytest.approx(6e-4)
    assert "interpretation" in recipe.about
