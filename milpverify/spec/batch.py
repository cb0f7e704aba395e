"""Many boxes bounded together: what `Region.minimum` does for one box, for B of them in a few matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from milpverify.errors import RegionError
from milpverify.network.arrays import array_namespace, device
from milpverify.spec.box import Box
from milpverify.spec.region import Region, frozen
from milpverify.spec.rounding import UNDERFLOW, allowance
from milpverify.spec.support import as_float64, like

if TYPE_CHECKING:
    from milpverify.network.operators import Array

CHUNK = 2**17  # coefficients whose sizes are taken at once on a CPU: a megabyte stays in the cache


class _Balls(NamedTuple):
    """The boxes as centres (*batch, n, 1) and [radius, |centre| + radius] (*batch, n, 2)."""

    center: Array
    extent: Array


@dataclass(frozen=True, eq=False, repr=False)
class BoxBatch:
    """The boxes { lower <= x <= upper }, one per entry of the leading axes; zero widths are allowed.

    Not a `Region`, which is one set, but its methods have the same names. Zero boxes are legal: a batch can run out.

    Attributes:
        lower, upper: Shape (*batch, n) with at least one leading axis; copied, read-only float64.

    Raises:
        RegionError: If the shapes differ or are too short, a bound is NaN or infinite, or some lower > upper.
    """

    lower: np.ndarray
    upper: np.ndarray

    def __post_init__(self) -> None:
        lower, upper = _bounds(self.lower, "lower"), _bounds(self.upper, "upper")
        if lower.shape != upper.shape:
            raise RegionError(
                f"BoxBatch: lower has shape {lower.shape}, upper has {upper.shape}. Give both the same shape."
            )
        crossed = lower > upper
        if crossed.any():
            box, i = _first(crossed)
            low, high = float(lower[crossed][0]), float(upper[crossed][0])
            raise RegionError(
                f"BoxBatch: box {box} is empty: lower[{i}] = {low!r} exceeds upper[{i}] = {high!r}. Check their order."
            )
        object.__setattr__(self, "lower", frozen(lower))
        object.__setattr__(self, "upper", frozen(upper))

    @classmethod
    def of(cls, regions: Sequence[Region]) -> BoxBatch:
        """The batch of regions that are boxes: `Box` and `LinfBall`, clipped or not, without cuts. Rounded outward.

        Raises:
            RegionError: If there are none, one is no box, or their dimensions differ.
        """
        if not len(regions):
            raise RegionError("BoxBatch.of: expected at least one region, got none. Leave the call out.")
        n = regions[0].dimension
        for i, region in enumerate(regions):
            if not region.is_box:
                raise RegionError(
                    f"BoxBatch.of: region {i} is {region!r}, not a box. Bound it alone, or pass its bounding box "
                    "Box(region.lower, region.upper), which contains it."
                )
            if region.dimension != n:
                raise RegionError(
                    f"BoxBatch.of: region {i} has {region.dimension} coordinates, region 0 has {n}. "
                    "Batch the inputs of one network."
                )
        return cls(np.stack([r.lower for r in regions]), np.stack([r.upper for r in regions]))

    def __repr__(self) -> str:
        return f"BoxBatch(n_regions={self.n_regions}, dimension={self.dimension})"

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The leading axes."""
        return self.lower.shape[:-1]

    @property
    def dimension(self) -> int:
        """Number of coordinates n of each box."""
        return self.lower.shape[-1]

    @property
    def n_regions(self) -> int:
        """Number of boxes B."""
        return int(np.prod(self.batch_shape))

    @property
    def is_box(self) -> bool:
        """True, as of a `Box` without cuts."""
        return True

    def __len__(self) -> int:
        return len(self.lower)

    def __getitem__(self, index: Any) -> Box | BoxBatch:
        """One box, or a batch of the chosen ones.

        Args:
            index: What numpy takes on an array of shape (*batch,): a number, slice, index array or mask.
        """
        # Picking numbers, not bounds, keeps the coordinates' axis out of the caller's reach.
        picked = np.arange(self.n_regions).reshape(self.batch_shape)[index]
        n = self.dimension
        lower, upper = self.lower.reshape(-1, n)[picked], self.upper.reshape(-1, n)[picked]
        return Box(lower, upper) if lower.ndim == 1 else BoxBatch(lower, upper)

    @cached_property
    def center(self) -> np.ndarray:
        """The midpoints, shape (*batch, n), within the bounds. Floating."""
        return frozen(np.minimum(np.maximum(self.lower / 2 + self.upper / 2, self.lower), self.upper))

    @cached_property
    def radius(self) -> np.ndarray:
        """Half widths, shape (*batch, n). Rounded up: center - radius <= lower and upper <= center + radius."""
        gap = np.maximum(self.upper - self.center, self.center - self.lower)
        # A float difference is 0 only where the exact one is. There no step up: subnormal radii would slow products.
        return frozen(np.where(gap > 0, np.nextafter(gap, np.inf), 0.0))

    def minimum(self, lam: Array) -> Array:
        r"""Lower bounds of min lam.x over each box. Rounded: never above the exact minimum, and tight to rounding.

        With c and r = `center` and `radius`, every box lies in c +- r, so that over it

            min lam.x  >=  lam.c - |lam|.r      (exactly, for these float64 c and r).

        Each of the two sums is n products; in float64 their errors together are at most gamma_n |lam|.(|c| + r), in
        any order of summation, whatever the matrix product does. `allowance(n)` is twice that and eight more roundings,
        for the size |c| + r, the sum |lam|.(|c| + r) and the subtractions; UNDERFLOW is for products that vanish. The
        radius is at most two units in the last place of c and r too wide: what is lost is of the allowance's order.
        Where something overflows the bound is -infinity.

        Args:
            lam: numpy or torch, shape (*rows, m, n), taken as the exact values of its floats; `rows` must broadcast
                against the boxes' leading axes, so (m, n) asks every box the same.

        Returns:
            Shape (*broadcast, m), in the namespace of lam.

        Raises:
            RegionError: If lam does not fit.

        Source:
            Rump 1999, fast matrix products of intervals by midpoint and radius.
        """
        lam = self._checked(as_float64(lam), "minimum")
        xp, balls = array_namespace(lam), self._balls(lam)
        with np.errstate(over="ignore", invalid="ignore"):
            sums = _sums(xp, lam, balls)
            bound = sums[..., 0] - sums[..., 1] - (allowance(self.dimension) * sums[..., 2] + UNDERFLOW)
        return xp.where(xp.isfinite(bound), bound, xp.full_like(bound, -xp.inf))

    def minimiser(self, lam: Array) -> Array:
        """Corners that attain min lam.x, in the namespace of lam; the centre where a coefficient is 0. Floating.

        Args:
            lam: As in `minimum`.

        Returns:
            Shape (*broadcast, m, n).

        Raises:
            RegionError: If lam does not fit.
        """
        lam = self._checked(as_float64(lam), "minimiser")
        xp = array_namespace(lam)
        lower, upper, center = (like(v[..., None, :], lam) for v in (self.lower, self.upper, self.center))
        return xp.where(lam > 0, lower, xp.where(lam < 0, upper, center + xp.zeros_like(lam)))

    def sample(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Uniform random points of each box, shape (*batch, count, n)."""
        lower, upper = self.lower[..., None, :], self.upper[..., None, :]
        share = rng.random((*self.batch_shape, count, self.dimension))
        return np.minimum(np.maximum(lower * (1 - share) + upper * share, lower), upper)

    def _checked(self, lam: Array, who: str) -> Array:
        """lam, if its shape fits the boxes."""
        shape = tuple(lam.shape)
        try:
            if len(shape) < 2 or shape[-1] != self.dimension:
                raise ValueError
            np.broadcast_shapes(shape[:-2], self.batch_shape)
        except ValueError:
            expected = ", ".join(map(str, (*self.batch_shape, "m", self.dimension)))
            raise RegionError(
                f"BoxBatch.{who}: lam of shape {shape} came, expected ({expected}) or what broadcasts to it. "
                "Give lam one row per bound and one column per coordinate."
            ) from None
        return lam

    def _balls(self, lam: Array) -> _Balls:
        """The boxes in the namespace and on the device of lam, copied there once."""
        if isinstance(lam, np.ndarray):
            return self._host
        key = str(device(lam))
        if key not in self._copies:
            self._copies[key] = _Balls(*(like(values, lam) for values in self._host))
        return self._copies[key]

    @cached_property
    def _host(self) -> _Balls:
        with np.errstate(over="ignore"):
            extent = np.stack([self.radius, np.abs(self.center) + self.radius], axis=-1)
        return _Balls(self.center[..., None], frozen(extent))

    @cached_property
    def _copies(self) -> dict[str, _Balls]:
        """By device: boxes of other namespaces than numpy; all of them torch's."""
        return {}


def _sums(xp: Any, lam: Array, balls: _Balls) -> Array:
    """lam.c, |lam|.r and |lam|.(|c| + r), shape (*broadcast, m, 3)."""
    if lam.ndim == 2:
        return xp.concat([_shared(xp, lam, balls.center), _shared(xp, xp.abs(lam), balls.extent)], axis=-1)
    step = max(1, CHUNK // max(1, int(np.prod(lam.shape[1:]))))
    aligned = lam.shape[0] == balls.center.shape[0] and lam.ndim == balls.center.ndim
    if not aligned or step >= len(lam) or not str(device(lam)).startswith("cpu"):
        return _products(xp, lam, balls)
    parts = range(0, len(lam), step)
    return xp.concat([_products(xp, lam[i : i + step], _Balls(*(v[i : i + step] for v in balls))) for i in parts])


def _products(xp: Any, lam: Array, balls: _Balls) -> Array:
    """The sums of `_sums`, box by box."""
    size, extent = xp.abs(lam), balls.extent
    # numpy's matrix products with two columns take longer than two with one; torch's do not.
    split = (extent[..., :1], extent[..., 1:]) if isinstance(lam, np.ndarray) else (extent,)
    return xp.concat([lam @ balls.center, *(size @ columns for columns in split)], axis=-1)


def _shared(xp: Any, lam: Array, columns: Array) -> Array:
    """lam (m, n) times columns (*batch, n, p) as one matrix product, shape (*batch, m, p)."""
    *batch, n, p = columns.shape
    flat = xp.reshape(xp.matrix_transpose(columns), (-1, n))
    product = xp.reshape(flat @ xp.matrix_transpose(lam), (*batch, p, lam.shape[0]))
    return xp.matrix_transpose(product)


def _bounds(values: Any, name: str) -> np.ndarray:
    """A new float64 copy of bounds of shape (*batch, n)."""
    try:
        bounds = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise RegionError(f"BoxBatch: {name}: expected an array of numbers, got {error}.") from None
    if bounds.ndim < 2 or not bounds.shape[-1]:
        raise RegionError(
            f"BoxBatch: {name} has shape {bounds.shape}, expected (*batch, n) with n >= 1. Use Box for a single box."
        )
    bad = ~np.isfinite(bounds)
    if bad.any():
        box, i = _first(bad)
        raise RegionError(
            f"BoxBatch: box {box}: {name}[{i}] is {bounds[bad][0]}. Regions need finite numbers; clip it to a range."
        )
    return bounds


def _first(bad: np.ndarray) -> tuple[str, int]:
    """The first box, by its index, and coordinate at fault."""
    *box, i = np.argwhere(bad)[0].tolist()
    return str(box[0]) if len(box) == 1 else str(tuple(box)), i
