"""What is compiled is compiled once, however the loads change: no shape hangs on them."""

from __future__ import annotations

from functools import partialmethod

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from moe.model import experts
from moe.model.transformer import MoETransformer


# What dynamo does while it traces, torch warns itself of.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize(
    "fields",
    [{}, {"routing_unit": "sequence"}, {"activation": "swiglu", "bias": False, "qk_norm": "head"}],
    ids=str,
)
def test_changing_loads_do_not_compile_again(make_config, monkeypatch, fields):
    """The way of a GPU on a CPU, whose grouped product is torch's own loop."""
    config = make_config(num_experts=4, top_k=2, shared_experts=1, d_model=16, **fields)
    plain, model = MoETransformer(config), MoETransformer(config)
    monkeypatch.setattr(experts, "is_grouped", lambda x_URD: True)
    counter = CompileCounter()  # runs the captured graphs as they are
    compiled = partialmethod(torch.nn.Module.compile, backend=counter, fullgraph=True)
    monkeypatch.setattr(torch.nn.Module, "compile", compiled)
    torch._dynamo.reset()
    model.compile_parts()
    loads, compilations = set(), []
    for step in range(1, 9):
        ids_BS = torch.randint(0, 257, (2, 8))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output, expected = model(ids_BS, ids_BS, step=step), plain(ids_BS, ids_BS, step=step)
        torch.testing.assert_close(output.loss, expected.loss)
        output.loss.backward()
        loads |= {tuple(routing.counts_N.tolist()) for routing in output.routing}
        compilations.append(counter.frame_count)
    assert len(loads) > 2
    assert compilations == [compilations[0]] * 8
    assert compilations[0] > 0
