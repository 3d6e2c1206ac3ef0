"""Self-attention a few heads at a time: the numbers of three plain products, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fusiform.nn import attention as module
from fusiform.nn.attention import attention, self_attention


def plainly(qkv: Tensor, scale: float | None, first: int) -> Tensor:
    q, k, v = qkv.unbind(0)
    return attention(q[:, :, first:], k, v, scale)


def drawn(shape: tuple[int, int, int, int], dtype: torch.dtype) -> Tensor:
    """(3, B, H, L, d) as a projection leaves it: not contiguous."""
    B, H, L, d = shape
    x = torch.randn(B, L, 3, H, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x.to(dtype).permute(2, 0, 3, 1, 4).requires_grad_()


@pytest.mark.parametrize("at_once", [1, 3 * 41 * 41, 2**19])
@pytest.mark.parametrize("first", [0, 7, 40])
@pytest.mark.parametrize("shape", [(2, 4, 41, 12), (3, 2, 41, 64), (1, 5, 41, 32)])
def test_a_few_heads_at_a_time_are_all_heads_at_once(
    shape: tuple[int, int, int, int], first: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IN_CACHE", at_once)
    qkv = drawn(shape, torch.float64)
    ours, theirs = self_attention(qkv, None, first), plainly(qkv, None, first)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    above = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (mine,), (its,) = torch.autograd.grad(ours, qkv, above), torch.autograd.grad(theirs, qkv, above)
    torch.testing.assert_close(mine, its, rtol=1e-11, atol=1e-13)
    assert not mine[0, :, :, :first].any()


def test_its_gradient_is_that_of_its_differences() -> None:
    qkv = drawn((2, 2, 5, 4), torch.float64)
    assert torch.autograd.gradcheck(lambda x: self_attention(x, 0.7, 1), (qkv,))


@pytest.mark.parametrize("tokens", [17, 33, 64, 79])
def test_bf16_is_as_near_to_the_exact_numbers_as_plain_products_are(tokens: int) -> None:
    qkv = drawn((4, 3, tokens, 32), torch.bfloat16)
    exact = qkv.detach().double().requires_grad_()
    above = torch.randn(4, 3, tokens, 32, generator=torch.Generator().manual_seed(1)).bfloat16()
    wanted = plainly(exact, None, 0)
    (slope,) = torch.autograd.grad(wanted, exact, above.double())
    wanted = wanted.detach()

    def off(way: Tensor) -> tuple[float, float]:
        (g,) = torch.autograd.grad(way, qkv, above)
        way = way.detach()
        return float((way - wanted).norm() / wanted.norm()), float((g - slope).norm() / slope.norm())

    ours, theirs = off(self_attention(qkv)), off(plainly(qkv, None, 0))
    assert ours[0] < 1.05 * theirs[0] < 0.02
    assert ours[1] < 1.05 * theirs[1] < 0.02


def test_under_autocast_it_computes_in_bf16_and_gives_gradients_in_what_came() -> None:
    qkv = drawn((2, 2, 9, 8), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = self_attention(qkv)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert qkv.grad is not None
    assert qkv.grad.dtype == torch.float32


def test_without_gradients_nothing_is_kept_and_what_came_is_left_as_it_was() -> None:
    qkv = drawn((2, 3, 11, 8), torch.float64).detach().contiguous()
    before = qkv.clone()
    out = self_attention(qkv)
    assert not out.requires_grad
    assert torch.equal(qkv, before)
    torch.testing.assert_close(out, plainly(qkv, None, 0), rtol=1e-12, atol=1e-14)
