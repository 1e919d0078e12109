"""Equal budgets: widths solved so that a cell keeps a baseline's parameters.

Parameters are counted with embeddings and with routers, which of many narrow experts are a third of
what a token passes. Every kind of router counts as a learned one does, so that learned, frozen and
hash cells of one shape get one width and one dense baseline: otherwise a contrast of router kinds
would also be a contrast of widths. Few widths are whole where many experts are active, so of cells
that are to be equal the coarse ones are matched to the finest.
"""

from __future__ import annotations

from typing import Any, Literal

from moe.accounting import account
from moe.config import GROUPED_WIDTH, ConfigError, TrialConfig
from search_spaces.cells import Cell
from search_spaces.overlay import overlay

Budget = Literal["active", "total"]

# A solved width this near to a whole multiple of the natural one becomes that multiple. A small
# router and output biases lie between them (K experts have K, a dense FFN has one), and a
# dense-total that is the hand-written dense 4x, to the hash, is trained once.
_SNAP = 0.005


def count(config: TrialConfig, on: Budget) -> int:
    """Parameters that budgets are matched on: active or total, with embeddings, and with routers as
    if each were stored."""
    if on not in ("active", "total"):
        raise ConfigError(
            f"a budget is active or total parameters; received {on!r}. Choose one of the two."
        )
    counted = account(config)
    total = counted.params_active if on == "active" else counted.params_total
    return total - counted.params_router + counted.params_router_stored


def match(
    config: TrialConfig, baseline: TrialConfig, on: Budget = "active", tolerance: float = 0.01
) -> TrialConfig:
    """`config` with the width at which it has the parameters of `baseline`.

    Sets moe.d_expert, or model.ffn_multiple if `config` is dense; all else stays. The nearest whole
    width is taken; of experts in bf16 the nearest multiple of what a GPU's grouped kernels take
    (moe.config.GROUPED_WIDTH), if that one is within `tolerance` too. Raises ConfigError, with the
    nearest achievable count, if the width's count is further away than `tolerance`, relative to the
    baseline's.
    """
    target = count(baseline, on)
    unit = config.model.d_ff_of_activation
    if not config.moe.is_dense:
        unit = max(1, _derived_width(config))
    fixed, per_width = _line(config, on)
    solved = (target - fixed) / per_width
    width = max(1, round(solved))
    multiple = max(1, round(width / unit)) * unit
    is_exact = count(_with_width(config, width), on) == target
    if not is_exact and abs(multiple - width) <= _SNAP * width:
        width = multiple
    if not config.moe.is_dense and config.train.precision == "bf16":
        aligned = max(1, round(solved / GROUPED_WIDTH)) * GROUPED_WIDTH
        if abs(count(_with_width(config, aligned), on) - target) <= tolerance * target:
            width = width if width % GROUPED_WIDTH == 0 else aligned
    matched = _with_width(config, width)
    reached = count(matched, on)
    if abs(reached - target) > tolerance * target:
        raise ConfigError(
            f"the {on} parameters of a matched cell lie within {tolerance:g} of its baseline's; "
            f"received a baseline of {target:,}, to which the nearest achievable is {reached:,} "
            f"(at FFN width {width}). Change d_model, experts or top_k, or widen the tolerance."
        )
    return matched


def matched_cell(cell: Cell, to: Cell, base: TrialConfig, on: Budget = "active") -> Cell:
    """`cell` with the width at which, over `base`, it has the parameters of the cell `to`. Raises
    ConfigError as `match` does."""
    matched = match(cell.config(base), to.config(base), on)
    if matched.moe.is_dense:
        width = {"model.ffn_multiple": matched.model.ffn_multiple}
    else:
        width = {"moe.d_expert": matched.moe.d_expert}
    return Cell(name=cell.name, overrides={**cell.overrides, **width})


def dense_baselines(config: TrialConfig, tolerance: float = 0.01) -> dict[str, TrialConfig]:
    """Both dense models of a MoE cell: of equal active and of equal total parameters.

    Where every expert is active the two are the same model. Raises ConfigError if `config` is
    dense, or as `match` does.
    """
    if config.moe.is_dense:
        raise ConfigError(
            "dense baselines are made for a config with experts; received moe.num_experts=0. "
            "Pass the MoE cell."
        )
    dense = overlay(config, {"moe.num_experts": 0})
    return {
        "dense-active": match(dense, config, "active", tolerance),
        "dense-total": match(dense, config, "total", tolerance),
    }


def _line(config: TrialConfig, on: Budget) -> tuple[int, int]:
    """Count = fixed + per_width * width: matrices and inner biases of an FFN grow with width."""
    one, two, three = (count(_with_width(config, width), on) for width in (1, 2, 3))
    assert three - two == two - one > 0, "parameters must be linear in the width of the FFN"
    return one - (two - one), two - one


def _with_width(config: TrialConfig, width: int) -> TrialConfig:
    change: dict[str, Any]
    if config.moe.is_dense:
        change = {"model.ffn_multiple": width / config.model.d_ff_of_activation}
    else:
        derives = width * config.moe.granularity == config.model.d_ff_of_activation
        change = {"moe.d_expert": 0 if derives else width}
    return overlay(config, change)


def _derived_width(config: TrialConfig) -> int:
    return config.model.d_ff_of_activation // config.moe.granularity
