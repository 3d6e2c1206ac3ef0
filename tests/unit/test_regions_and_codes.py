"""Parts of our PaCo-FR whose numbers no fixture holds: regions that move with the view, masks, the life of codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from fusiform import recipes
from fusiform.batch import FaceBatch
from fusiform.clock import Clock
from fusiform.config import ViTConfig
from fusiform.errors import ConfigError
from fusiform.faces.align import template
from fusiform.methods.paco_fr import PaCoFR
from fusiform.nn.codebook import BeliefPredictor, Codebook
from fusiform.nn.regions import MIRRORED, REGIONS, RegionMasker, region_map
from fusiform.objectives import region_distances, relations, seams, usage
from fusiform.recipes.paco_fr import PaCoFRConfig

VIT = ViTConfig(image_size=32, patch_size=8, width=24, depth=1, heads=2)
SMALL = PaCoFRConfig(codes=24, belief_width=16, decoder_width=16, decoder_depth=1, decoder_heads=2)


def method() -> PaCoFR:
    torch.manual_seed(0)
    return SMALL.build(VIT)


def batch(faces: int = 4, seed: int = 0, family: str = "loose") -> FaceBatch:
    draws = torch.Generator().manual_seed(seed)
    return FaceBatch(
        images=torch.randint(0, 256, (faces, 1, 3, 32, 32), generator=draws, dtype=torch.uint8),
        ids=torch.arange(faces),
        boxes=torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(faces, 1, 4),
        flipped=torch.zeros(faces, 1, dtype=torch.bool),
        template=family,
    )


def points(family: str) -> np.ndarray:
    return np.array(template(family, 112).points) / 112


@pytest.mark.parametrize("family", ["loose", "arcface"])
def test_the_templates_points_lie_in_their_regions(family):
    grid = 56
    ids = region_map(points(family), grid, [[0, 0, 1, 1]], [False]).reshape(grid, grid)
    left, right, nose, *corners = (points(family) * grid).astype(int)
    named = [REGIONS[ids[y, x]] for x, y in (left, right, nose, *corners)]
    assert named == ["left eye", "right eye", "nose", "mouth", "mouth"]
    assert set(ids.ravel()) == set(range(10))
    assert REGIONS[ids[0, 0]] == "outer"


def test_a_view_of_a_part_shows_that_part_of_the_map():
    whole = region_map(points("loose"), 16, [[0, 0, 1, 1]], [False]).reshape(16, 16)
    part = region_map(points("loose"), 8, [[0.25, 0.5, 0.75, 1.0]], [False]).reshape(8, 8)
    assert np.array_equal(part, whole[8:, 4:12])


def test_a_mirrored_view_has_the_mirrored_map_with_sides_renamed():
    box = [[0.1, 0.05, 0.95, 0.9]]
    seen = region_map(points("loose"), 14, box, [False]).reshape(14, 14)
    mirrored = region_map(points("loose"), 14, box, [True]).reshape(14, 14)
    assert np.array_equal(mirrored, np.array(MIRRORED)[seen[:, ::-1]])
    columns = np.arange(14)[None].repeat(14, 0)
    for ids in (seen, mirrored):
        assert columns[ids == REGIONS.index("left eye")].max() < columns[ids == REGIONS.index("right eye")].min()


def test_masks_hit_their_number_with_whole_regions_and_one_connected_part():
    regions = region_map(points("arcface"), 14, [[0, 0, 1, 1]] * 40, [False] * 40)
    mask = RegionMasker(0.5)(regions, 7, torch.device("cpu"))
    assert mask.drop.shape == (40, 98)
    partial = 0
    for face, drop in zip(regions, mask.drop.numpy(), strict=True):
        hidden = np.zeros(196, bool)
        hidden[drop] = True
        cut = [r for r in range(10) if 0 < hidden[face == r].mean() < 1]
        assert len(cut) <= 1
        for region in cut:
            partial += 1
            part = np.flatnonzero(hidden & (face == region))
            assert pieces(part) <= pieces(np.flatnonzero(face == region))
    assert partial > 20
    again = RegionMasker(0.5)(regions, 7, torch.device("cpu"))
    other = RegionMasker(0.5)(regions, 8, torch.device("cpu"))
    assert torch.equal(again.drop, mask.drop)
    assert not torch.equal(other.drop, mask.drop)


def pieces(cells: np.ndarray, grid: int = 14) -> int:
    """Connected components."""
    left, count = set(cells.tolist()), 0
    while left:
        count += 1
        reached = [left.pop()]
        while reached:
            cell = reached.pop()
            near = [
                cell - grid,
                cell + grid,
                *([cell - 1] if cell % grid else []),
                *([cell + 1] if (cell + 1) % grid else []),
            ]
            for other in near:
                if other in left:
                    left.discard(other)
                    reached.append(other)
    return count


def test_a_set_without_template_points_is_refused_with_a_way_out():
    with pytest.raises(ConfigError, match=r"'box'.*--template loose"):
        method()(batch(family="box"), Clock(0, 10))


def test_codes_begin_as_real_patches_of_the_first_batches():
    ours = method()
    seen = []
    for step in range(2):
        faces = batch(1, seed=step)
        seen.append(ours.encoder.patches(faces.images[:, 0])[0])
        ours(faces, Clock(step, 30, steps_per_epoch=3))
    # 16 patches of the first face, then 8 of the second
    assert int(ours.codebook.filled) == 24
    codes = ours.codebook.codes.detach()
    nearest = torch.cdist(codes.double(), torch.cat(seen).double())
    assert nearest.min(1).values.max() < 1e-3
    assert (nearest[:16].argmin(1) < 16).all()
    assert (nearest[16:].argmin(1) >= 16).all()
    twin = method()
    for step in range(2):
        twin(batch(1, seed=step), Clock(step, 30, steps_per_epoch=3))
    assert torch.equal(twin.codebook.codes, ours.codebook.codes)
    other = method()
    other(batch(1, seed=0), Clock(0, 30, seed=5, steps_per_epoch=3))
    assert not torch.equal(other.codebook.codes[:16], codes[:16])


def test_unused_codes_become_patches_that_the_belief_then_sees():
    torch.manual_seed(0)
    codebook, belief = Codebook(12, 48), BeliefPredictor(48, 16, 12)
    belief.out.bias.data[:4] -= 100  # nobody believes in the first four
    patches = torch.randn(64, 48)
    codebook.count(belief(patches).topk(3).indices)
    assert codebook.uses.sum() == 64 * 3
    assert (codebook.uses[:4] == 0).all()
    unused = codebook.uses == 0
    fresh = torch.randn(12, 48)
    kept = codebook.codes[~unused].clone()
    codebook.replace_unused(fresh, belief, 3)
    assert torch.equal(codebook.codes[unused], fresh[: unused.sum()])
    assert torch.equal(codebook.codes[~unused], kept)
    assert int(codebook.dead) == int(codebook.replaced) == int(unused.sum())
    assert codebook.uses.sum() == 0
    found = belief(fresh[: unused.sum()]).topk(3).indices
    own = unused.nonzero()
    assert (found == own).any(1).all()
    logits = belief(fresh).detach()
    assert logits[:, unused].mean() < logits.topk(3).values.mean()


def test_codes_are_replaced_at_the_end_of_an_epoch_and_at_no_other_time():
    ours = method().train()
    for step in range(6):
        clock = Clock(step, 30, steps_per_epoch=3)
        ours(batch(4, seed=step), clock)
        ours.belief_predictor.out.bias.data[:5] = -100.0
        before = ours.codebook.codes.detach().clone()
        ours.after_step(clock)
        changed = (ours.codebook.codes != before).any(1)
        assert bool(changed.any()) == (step == 5), step  # in the first epoch all were used before the bias fell
    assert changed[:5].all()
    assert int(ours.codebook.replaced) == int(changed.sum())


def test_a_code_in_place_of_itself_leaves_no_seam():
    draws = torch.Generator().manual_seed(0)
    original = torch.rand(2, 16, 48, generator=draws)
    hidden = torch.rand(2, 16, generator=draws) < 0.5
    assert seams(original.clone(), original, hidden, 4) == 0
    brighter = torch.where(hidden.unsqueeze(-1), original + 0.5, original)
    by_hand, pairs = 0.0, 0
    for at in hidden.reshape(2, 4, 4):
        for r in range(4):
            for c in range(4):
                for other in ([at[r, c + 1]] if c < 3 else []) + ([at[r + 1, c]] if r < 3 else []):
                    pairs += int(at[r, c] | other)
                    by_hand += 0.5 * int(at[r, c] ^ other)
    assert float(seams(brighter, original, hidden, 4)) == pytest.approx(by_hand / pairs, rel=1e-5)


def test_relations_count_only_regions_that_a_face_shows():
    draws = torch.Generator().manual_seed(0)
    patches = torch.rand(2, 9, 12, generator=draws).double()
    regions = torch.tensor([[0, 0, 0, 1, 1, 1, 4, 4, 4], [2] * 9])
    _, both = region_distances(patches, regions, 10)
    assert both.sum(1).tolist() == [3, 0]
    other = patches.flip(-1) * 2
    means = torch.stack([patches[0, i : i + 3].mean(0) for i in (0, 3, 6)])
    twice = torch.stack([other[0, i : i + 3].mean(0) for i in (0, 3, 6)])
    distances = [((m[:, None] - m[None]).square().mean(-1) + 1e-8).sqrt() for m in (means, twice)]
    wanted = (distances[0] - distances[1]).abs().mean() / 2  # the second face shows one region and changes nothing
    assert float(relations(other, patches, regions, 10)) == pytest.approx(float(wanted), rel=1e-6)


def test_usage_is_nought_for_equal_use_and_log_k_for_one_code():
    assert float(usage(torch.zeros(5, 8))) == pytest.approx(0, abs=1e-6)
    assert float(usage(100 * torch.eye(8)[:1].expand(5, -1))) == pytest.approx(np.log(8), rel=1e-5)


def test_the_belief_learns_while_it_incubates_and_the_codebook_later():
    ours = method()
    ours(batch(), Clock(0, 30, steps_per_epoch=3)).total.backward()
    assert ours.belief_predictor.out.weight.grad.abs().sum() > 0
    ours.zero_grad()
    later = ours(batch(), Clock(3, 30, steps_per_epoch=3))
    assert later.parts["belief"] == 0
    later.total.backward()
    assert ours.codebook.codes.grad.abs().sum() > 0
    assert later.parts["code_perplexity"] >= 1
    assert 0 <= later.parts["nearest_in_candidates"] <= 1


def test_codes_tokens_and_positions_are_not_decayed():
    from fusiform.engine import Training

    training = Training(recipes.find("paco-fr-quick"), method(), steps_per_epoch=4)
    names = {p: n for n, p in training.trained.items()}
    free = {names[p] for g in training.optimizers[0].param_groups if not g["weight_decay"] for p in g["params"]}
    assert {"codebook.codes", "encoder.cls_token", "encoder.pos_embed", "decoder.pos_embed"} <= free
    assert not any(name.endswith(("qkv.weight", "out.weight", "embed.weight")) for name in free)


def on_one_of_two_ranks(rank: int, meeting: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    logits = torch.randn(12, 6, generator=torch.Generator().manual_seed(1)).double()
    together = logits.clone().requires_grad_(True)
    mean = together.softmax(-1).mean(0)
    alone = np.log(6) + (mean * (mean + 1e-9).log()).sum()
    alone.backward()
    mine = logits[6 * rank : 6 * rank + 6].clone().requires_grad_(True)
    loss = usage(mine)
    loss.backward()
    assert float(loss) == pytest.approx(float(alone), rel=1e-12)
    # averaged over ranks, as parameters' gradients are, this is the gradient of the loss over all patches
    assert torch.allclose(mine.grad / 2, together.grad[6 * rank : 6 * rank + 6], rtol=1e-9)

    ours = method().train()
    for step in range(3):
        clock = Clock(step, 9, steps_per_epoch=3, rank=rank)
        ours(batch(2, seed=10 * step + rank), clock)
        ours.belief_predictor.out.bias.data[:5] = -100.0
        ours.codebook.count(torch.tensor([0, 1] if rank else [2]))  # used on one rank is used
        ours.after_step(clock)
    both = [torch.empty_like(ours.codebook.codes) for _ in range(2)]
    dist.all_gather(both, ours.codebook.codes.detach())
    assert torch.equal(*both)
    assert int(ours.codebook.filled) == 24
    dist.destroy_process_group()


def test_two_ranks_share_one_codebook_and_one_usage(tmp_path: Path):
    spawn(on_one_of_two_ranks, args=(f"file://{tmp_path / 'meeting'}",), nprocs=2)
