r"""LOAN: static maps decide, pixel by pixel, how dynamic features are scaled and shifted; for wildfire danger.

Mohamad Hakam Shams Eddin, Ribana Roscher, Juergen Gall, "Location-aware Adaptive Normalization: A Deep Learning
Approach for Wildfire Danger Forecasting", IEEE Transactions on Geoscience and Remote Sensing 61 (2023), arXiv
2212.08208. Official code: HakamShams/LOAN, from which every shape and default here was read.

Fire danger depends on dynamic variables (weather, vegetation: time x latitude x longitude) and on static ones (terrain,
roads, land cover: maps without time). Copying the static maps along time ignores that they are of another kind. Two
branches that meet only at the end cannot interact while features are learned. LOAN keeps a 2D and a 3D branch and lets
the static feature map of the same depth give each pixel of the dynamic one its scale and shift.

    the layer                                     LOAN
    the day-of-year code, calendar of a leap year DayOfYearEncoding, leap_day_of_year
    the two-branch network, and its controls      LOANFireNet with fusion "loan", "late", "early"
    scaling of the inputs                         min_max_scale
    a world with a known law, ours                make_synthetic_firecube

The official training recipe, for reference: class weights (0.5, 0.5) in the negative log-likelihood, Adam with lr 3e-5,
eps 1e-4 and L2 0.02 in the gradient (not decoupled), lr x 0.1 every 23 epochs, 40 epochs, batches of 256. Label: fire
(1) or not (0). The official code writes the head's linear layers as convolutions of kernel 1, which is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normviz.norms._placement import place
from normviz.norms._rows import computing_dtype
from normviz.norms.day_of_year import DayOfYearEncoding, leap_day_of_year
from normviz.norms.location_aware_norm import LOAN
from normviz.norms.synthetic_firecube import make_synthetic_firecube, min_max_scale
from normviz.validation import check_choice, check_integer, check_real

__all__ = [
    "LOAN",
    "DayOfYearEncoding",
    "LOANFireNet",
    "leap_day_of_year",
    "make_synthetic_firecube",
    "min_max_scale",
]

_SMALLEST_MAP = 14
"""Height and width that leave one pixel: 14 -> 12 -> 6 -> 4 -> 2 -> 1."""

_SHORTEST_TIME = 8
"""Days that leave one slot: 8 -> 6 -> 6 -> 4 -> 2 -> 1."""


class LOANFireNet(nn.Module):
    """The CNN of the LOAN paper: a 3D branch of dynamic variables, a 2D branch of static ones, one head.

    Shams Eddin, Roscher, Gall, arXiv 2212.08208; sizes as in the official ``models/CNN.py``. Convolutions have a bias
    and no padding. With the default widths (W = 32, 64, 128)::

        dynamic branch                                        static branch, on [static, landcover]
        conv 3x3x3 -> 32, loan1, ReLU, max pool (1,2,2)       conv 3x3 -> 32, static_norm, ReLU, max pool 2
        conv 3x3x3 -> 64, loan2, ReLU, max pool (2,2,2)       conv 3x3 -> 64, ReLU, max pool 2
        conv 2x2x2 stride (1,2,2) -> 128, ReLU                conv 2x2 stride 2 -> 128, ReLU
        mean to 2 time slots, flattened channel by channel    mean over pixels

    ``loan1`` normalises, ``loan2`` does not (norm=False); both take the static convolution's raw output. The dynamic
    vector of 2 W3 entries gets the code of the day added. Head on [dynamic, static]: Linear and ReLU for each width of
    ``hidden``, dropout after every ReLU but the last, Linear to the classes, log-softmax. The defaults have 413,762
    parameters (413,506 without time encoding).

    Fusions: "loan" is the paper's. "late": the same branches, that meet only in the head; loan1 is a BatchNorm3d with
    gain and bias, loan2 nothing. "early": the branch of "late" alone, on [dynamic, static, landcover] with the maps
    repeated along time; the head's input has 2 W3 entries.

    Submodules (None where a fusion has none): ``dynamic_convs``, ``static_convs`` (three each), ``loan1``, ``loan2``,
    ``dynamic_norm`` ("late", "early"), ``static_norm``, ``time`` (:class:`DayOfYearEncoding`), ``head`` (its Linear
    layers). After the same ``torch.manual_seed``, "loan" and "late" start from the same convolutions and head.

    Args:
        dynamic_channels: dynamic variables Vd. Default 10 (official).
        static_channels: static variables Vs. Default 5 (official).
        landcover_channels: land-cover classes Vc. Default 10 (official).
        n_classes: classes. Default 2 (official).
        widths: channels of the three convolutions of each branch. Default (32, 64, 128) (official).
        hidden: widths of the head's hidden layers, any number of them. Default (256, 128, 32) (official).
        dropout: probability, in [0, 1). Default 0.5 (official).
        fusion: "loan" (default), "late" or "early".
        time_encoding: add the code of the day. Default True; False ignores ``day``.
        device, dtype: of parameters and buffers. Default None: torch's.

    Raises:
        ValueError: an argument out of range, an unknown fusion; inputs with other channels or different N, H or W, or
            smaller than H = W = 14 and D = 8; no ``day`` where there is a time encoding, or one out of range.
        TypeError: inputs not floating point; ``day`` not of an integer dtype.

    Example:
        >>> import torch
        >>> net = LOANFireNet(4, 2, 6, widths=(8, 16, 32), hidden=(64,))
        >>> maps = torch.randn(3, 2, 15, 15), torch.rand(3, 6, 15, 15)
        >>> net(torch.randn(3, 4, 8, 15, 15), *maps, torch.tensor([1, 100, 366])).shape
        torch.Size([3, 2])
    """

    dynamic_convs: nn.ModuleList
    static_convs: nn.ModuleList | None
    loan1: LOAN | None
    loan2: LOAN | None
    dynamic_norm: nn.BatchNorm3d | None
    static_norm: nn.BatchNorm2d | None
    time: DayOfYearEncoding | None

    def __init__(
        self,
        dynamic_channels: int = 10,
        static_channels: int = 5,
        landcover_channels: int = 10,
        n_classes: int = 2,
        widths: Sequence[int] = (32, 64, 128),
        hidden: Sequence[int] = (256, 128, 32),
        dropout: float = 0.5,
        fusion: str = "loan",
        time_encoding: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels = (
            check_integer("dynamic_channels", dynamic_channels, 1),
            check_integer("static_channels", static_channels, 1),
            check_integer("landcover_channels", landcover_channels, 1),
        )
        check_integer("n_classes", n_classes, 1)
        if len(widths) != 3:
            raise ValueError(f"widths must be three integers, got {widths!r}.")
        w1, w2, w3 = (check_integer("widths", width, 1) for width in widths)
        sizes = [check_integer("hidden", width, 1) for width in hidden]
        self.dropout = check_real("dropout", dropout, 0, 1, high_open=True)
        self.fusion = check_choice("fusion", fusion, ("loan", "late", "early"))
        two_branches = self.fusion != "early"
        maps = self.channels[1] + self.channels[2]
        volume = self.channels[0] + (0 if two_branches else maps)

        self.dynamic_convs = nn.ModuleList(
            [
                nn.Conv3d(volume, w1, 3),
                nn.Conv3d(w1, w2, 3),
                nn.Conv3d(w2, w3, 2, stride=(1, 2, 2)),
            ]
        )
        self.static_convs = (
            nn.ModuleList([nn.Conv2d(maps, w1, 3), nn.Conv2d(w1, w2, 3), nn.Conv2d(w2, w3, 2, stride=2)])
            if two_branches
            else None
        )
        outer = [2 * w3 + (w3 if two_branches else 0), *sizes, n_classes]
        self.head = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(outer))
        self.time = DayOfYearEncoding(2 * w3) if time_encoding else None
        # What differs between fusions is drawn last, so that all start from the same convolutions and head.
        self.static_norm = nn.BatchNorm2d(w1) if two_branches else None
        self.dynamic_norm = None if self.fusion == "loan" else nn.BatchNorm3d(w1)
        self.loan1 = LOAN(w1, w1) if self.fusion == "loan" else None
        self.loan2 = LOAN(w2, w2, norm=False) if self.fusion == "loan" else None
        place(self, device, dtype)

    def forward(
        self, dynamic: Tensor, static: Tensor, landcover: Tensor, day: Tensor | None = None
    ) -> Tensor:
        """Log-probabilities of the classes.

        Args:
            dynamic: (N, Vd, D, H, W) with D >= 8 and H, W >= 14; index 0 of D is the latest day in the official data.
            static: (N, Vs, H, W).
            landcover: (N, Vc, H, W).
            day: (N,), day of the year from 1 to 366, any integer dtype; see :func:`leap_day_of_year`.

        Returns:
            (N, n_classes); their exponentials sum to 1.
        """
        self._check_inputs(dynamic, static, landcover, day)
        maps = torch.cat([static, landcover], 1)  # (N, Vs + Vc, H, W)
        if self.static_convs is None:
            repeated = maps.unsqueeze(2).expand(-1, -1, dynamic.shape[2], -1, -1)
            volume, static_features = self._volume(torch.cat([dynamic, repeated], 1), None, None), None
        else:
            first = self.static_convs[0](maps)  # (N, w1, H', W')
            assert self.static_norm is not None
            second = self.static_convs[1](F.max_pool2d(F.relu(self.static_norm(first)), 2))
            third = F.relu(self.static_convs[2](F.max_pool2d(F.relu(second), 2)))
            volume, static_features = self._volume(dynamic, first, second), third.mean((2, 3))
        features = F.adaptive_avg_pool3d(volume, (2, 1, 1)).flatten(1)  # (N, 2 w3): c0t0, c0t1, c1t0, ...
        if self.time is not None:
            assert day is not None
            features = features + self.time(day)
        if static_features is not None:
            features = torch.cat([features, static_features], 1)
        return self._classify(features)

    def _volume(self, x: Tensor, first: Tensor | None, second: Tensor | None) -> Tensor:
        """The dynamic branch up to its last ReLU; ``first`` and ``second`` are the static maps of the same depth."""
        x = self.dynamic_convs[0](x)
        if self.loan1 is not None:
            x = self.loan1(x, first)
        if self.dynamic_norm is not None:
            x = self.dynamic_norm(x)
        x = self.dynamic_convs[1](F.max_pool3d(F.relu(x), (1, 2, 2)))
        if self.loan2 is not None:
            x = self.loan2(x, second)
        return F.relu(self.dynamic_convs[2](F.max_pool3d(F.relu(x), 2)))

    def _classify(self, x: Tensor) -> Tensor:
        *hidden, last = self.head
        for i, linear in enumerate(hidden):
            x = F.relu(linear(x))
            if i < len(hidden) - 1:
                x = F.dropout(x, self.dropout, self.training)
        return F.log_softmax(last(x), 1)

    def _check_inputs(self, dynamic: Tensor, static: Tensor, landcover: Tensor, day: Tensor | None) -> None:
        given = {"dynamic": dynamic, "static": static, "landcover": landcover}
        for name, x in given.items():
            computing_dtype(name, x)
        vd, vs, vc = self.channels
        if dynamic.ndim != 5 or dynamic.shape[1] != vd:
            raise ValueError(f"dynamic must have shape (N, {vd}, D, H, W), got {tuple(dynamic.shape)}.")
        n, _, d, h, w = dynamic.shape
        if d < _SHORTEST_TIME or min(h, w) < _SMALLEST_MAP:
            raise ValueError(
                f"dynamic must have D >= {_SHORTEST_TIME} and H, W >= {_SMALLEST_MAP}, got {tuple(dynamic.shape)}."
            )
        for name, x, channels in (("static", static, vs), ("landcover", landcover, vc)):
            if tuple(x.shape) != (n, channels, h, w):
                raise ValueError(
                    f"{name} must have shape {(n, channels, h, w)} with the N, H, W of dynamic "
                    f"{tuple(dynamic.shape)}, got {tuple(x.shape)}."
                )
        if self.time is None:
            return
        if day is None:
            raise ValueError(
                "day must be given, because the network has a time encoding (time_encoding=True)."
            )
        if isinstance(day, Tensor) and tuple(day.shape) != (n,):
            raise ValueError(f"day must have shape ({n},), got {tuple(day.shape)}.")

    def extra_repr(self) -> str:
        """What the submodules do not show."""
        return f"channels={self.channels}, dropout={self.dropout}, fusion={self.fusion!r}"
