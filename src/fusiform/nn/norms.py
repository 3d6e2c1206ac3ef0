"""Normalisations beyond `nn.LayerNorm`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fusiform.nn.precision import wide
from fusiform.nn.ranks import rank_and_size, sum_over_ranks


class BatchNorm(nn.BatchNorm1d):
    """BatchNorm of (B, D) whose batch may be that of all ranks (SyncBatchNorm, which torch has on GPUs only).

    Computed in float32 or wider, also under autocast. Parameter names are those of `nn.BatchNorm1d`.
    """

    def __init__(self, width: int, *, affine: bool = True, across_ranks: bool = False) -> None:
        super().__init__(width, affine=affine)
        self.across_ranks = across_ranks

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) -> (B, D)."""
        with torch.autocast(x.device.type, enabled=False):
            if not (self.training and self.across_ranks and rank_and_size()[1] > 1):
                return super().forward(wide(x))
            return self._together(wide(x))

    def _together(self, x: Tensor) -> Tensor:
        """With the mean and variance of all ranks' rows, and gradients through both."""
        count = x.shape[0] * rank_and_size()[1]
        mean = sum_over_ranks(x.sum(0)) / count
        variance = sum_over_ranks((x - mean).square().sum(0)) / count
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            assert self.momentum is not None
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        out = (x - mean) * (variance + self.eps).rsqrt()
        return out * self.weight + self.bias if self.affine else out


class TokenBatchNorm(nn.Module):
    """BatchNorm over faces and tokens together, in the place of a block's layer norm (SiameseIM, CAMD)."""

    def __init__(self, width: int, *, across_ranks: bool = False) -> None:
        super().__init__()
        self.bn = BatchNorm(width, across_ranks=across_ranks)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        out: Tensor = self.bn(x.flatten(0, 1))
        return out.view(x.shape)


class PixelBatchNorm(BatchNorm):
    """BatchNorm of (B, C, H, W) over faces and pixels together, those of all ranks. Names are `nn.BatchNorm2d`'s."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, across_ranks=True)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim != 4:
            raise ValueError(f"{input.ndim} dimensions instead of 4")

    def _together(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        rows = super()._together(x.movedim(1, -1).reshape(-1, C))
        return rows.view(B, H, W, C).movedim(-1, 1)


class LayerScale(nn.Module):
    """A learned factor for each channel of a residual branch (Touvron et al., "Going deeper with image transformers",
    ICCV 2021)."""

    def __init__(self, width: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), initial))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma
