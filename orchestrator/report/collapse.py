"""Seeds whose training collapsed: far from the other seeds of their cell.

A seed has collapsed where it lies farther from its cell's median than a bound, in median absolute
deviations, these scaled by 1.4826 to be a standard deviation where values are normal. The usual
bound of 3.5 (Iglewicz and Hoaglin 1993) is for large samples: few seeds know their own deviation
poorly, so the bound here is the one that a normal sample of that size passes in one cell of a
hundred.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

_SCALE = 1.4826
# The 99% quantile of the largest scaled deviation among n normal values (400,000 samples each;
# tests/report/test_collapse.py draws others). Two seeds cannot say which of them is off.
_BOUND = {3: 114, 4: 15.7, 5: 18.9, 6: 10.2, 7: 10.8, 8: 8.0, 9: 8.3, 10: 6.9, 11: 7.1, 12: 6.3}
_BOUND |= {13: 6.4, 14: 5.9, 15: 6.0, 16: 5.6, 17: 5.7, 18: 5.4, 19: 5.5, 20: 5.3}
_LARGER = ((25, 5.0), (50, 4.6), (100, 4.4))


def bound(n: int) -> float:
    """In scaled median absolute deviations, of a cell of n seeds; infinite below three."""
    if n < 3:
        return np.inf
    if n in _BOUND:
        return _BOUND[n]
    return next((value for least, value in reversed(_LARGER) if n >= least), 5.3)


def collapsed(values: Mapping[int, float]) -> dict[int, float]:
    """seed -> its distance from the cell's median, for the seeds that have collapsed."""
    x = np.array(list(values.values()), dtype=np.float64)
    if x.size < 3:
        return {}
    distance = x - np.median(x)
    deviation = _SCALE * np.median(np.abs(distance))
    off = np.abs(distance) > bound(x.size) * deviation
    if deviation == 0:  # most seeds are equal: they are no replicates, and say no spread
        off[:] = False
    return {seed: float(d) for seed, d, o in zip(values, distance, off, strict=True) if o}
