"""A decoder whose feed-forward blocks may be mixtures of experts, read top to bottom.

Shapes:  B sequences   S positions   D d_model   V vocabulary   T counted positions of all sequences
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe.config import TrialConfig
from moe.model.attention import Attention
from moe.model.balance import z_loss
from moe.model.initialisation import embedding, initialise, linear
from moe.model.moe_layer import FeedForward, MoELayer
from moe.model.norms import build_norm
from moe.model.router import RouterContext, Routing
from moe.model.stacked import Stacked


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelOutput:
    """Losses of one micro-batch.

    loss: mean cross-entropy in nats over the counted positions, auxiliary losses apart.
    loss_sum, count: its numerator and denominator.
    aux_loss: weighted sum of balance loss and z-loss, to be added to `loss`; 0 if there is none.
    balance_loss, z_loss: means over the blocks that route, before their coefficients and without
        gradient; 0 where no router scores experts (dense, hash, label).
    routing: one decision per MoE block; empty for a dense model.
    loss_sum_B: `loss_sum` of each sequence, where that was asked for.
    """

    loss: Tensor
    loss_sum: Tensor
    count: int
    aux_loss: Tensor
    balance_loss: Tensor
    z_loss: Tensor
    routing: list[Routing]
    loss_sum_B: Tensor | None = None


class Block(nn.Module):
    """Pre-norm residual block; `ffn` is dense or a mixture."""

    def __init__(self, config: TrialConfig, layer: int) -> None:
        super().__init__()
        d_model = config.model.d_model
        self.attention_norm = build_norm(config.model, d_model)
        self.attention = Attention(config)
        self.ffn_norm = build_norm(config.model, d_model)
        is_moe = layer in config.moe_layers
        self.ffn = (
            MoELayer(config, layer) if is_moe else FeedForward(config.model, config.d_ff_dense)
        )
        self.dropout = nn.Dropout(config.model.dropout)

    def forward(
        self, x_BSD: Tensor, context: RouterContext, first: Callable[[], Routing | None]
    ) -> tuple[Tensor, Routing | None]:
        """`first` gives the first decision of the pass. A function, since what shards blocks takes
        the tensors that they are given apart, and a decision is shared as it is."""
        x_BSD = x_BSD + self.dropout(self.attention(self.attention_norm(x_BSD)))
        h_BSD = self.ffn_norm(x_BSD)
        if isinstance(self.ffn, MoELayer):
            y_BSD, routing = self.ffn(h_BSD, context, first())
        else:
            y_BSD, routing = self.ffn(h_BSD), None
        return x_BSD + self.dropout(y_BSD), routing


class MoETransformer(nn.Module):
    """The model of one `TrialConfig`, initialised from `train.seed`.

    `begin_step()` before the first micro-batch of an optimiser step and `end_step()` after the
    update keep the counts of the load balance. Dropout draws from torch's global generators.
    """

    def __init__(self, config: TrialConfig) -> None:
        super().__init__()
        self.config = config
        d_model, vocab_size = config.model.d_model, config.data.vocab_size
        # The modules fill themselves from the global generator on construction, for nothing.
        with torch.random.fork_rng(devices=[]):
            self.token_embedding = embedding(vocab_size, d_model)
            self.position_embedding = None
            if config.model.position == "learned":
                self.position_embedding = embedding(config.model.context_length, d_model)
            self.blocks = nn.ModuleList(Block(config, i) for i in range(config.model.num_layers))
            self.final_norm = build_norm(config.model, d_model)
            self.head = None
            if not config.model.tied_embeddings:
                self.head = linear(d_model, vocab_size, bias=False, growth="")
        self.dropout = nn.Dropout(config.model.dropout)
        initialise(self, config.train.seed, config.width_ratio)

    def hidden(
        self,
        ids_BS: Tensor,
        *,
        label_B: Tensor | None = None,
        step: int = 0,
        routes_causally: bool = False,
    ) -> tuple[Tensor, list[Routing]]:
        """What the head reads, [B, S, D], and the decisions of the MoE blocks. Under mup it is
        divided by the width's ratio here, which is the same as dividing the logits.

        Raises ValueError for sequences longer than the context.
        """
        length, limit = ids_BS.shape[1], self.config.model.context_length
        if length > limit:
            raise ValueError(
                f"a sequence must fit model.context_length={limit}; received {length} tokens. "
                "Cut it, or raise model.context_length."
            )
        context = RouterContext(
            ids_BS=ids_BS, label_B=label_B, step=step, routes_causally=routes_causally
        )
        x_BSD = self.token_embedding(ids_BS)
        if self.position_embedding is not None:
            x_BSD = x_BSD + self.position_embedding.weight[:length]
        x_BSD = self.dropout(x_BSD)
        decisions: list[Routing] = []
        for block in self.blocks:
            x_BSD, routing = block(x_BSD, context, lambda: decisions[0] if decisions else None)
            if routing is not None:
                decisions.append(routing)
        x_BSD = self.final_norm(x_BSD)
        ratio = self.config.width_ratio
        return x_BSD if ratio == 1 else x_BSD / ratio, decisions

    def logits(self, ids_BS: Tensor, *, label_B: Tensor | None = None, step: int = 0) -> Tensor:
        """Next-token logits [B, S, V]."""
        x_BSD, _ = self.hidden(ids_BS, label_B=label_B, step=step)
        return F.linear(x_BSD, self.head_weight)

    @property
    def head_weight(self) -> Tensor:
        """[V, D]: the token embedding's, or the head's own."""
        return self.token_embedding.weight if self.head is None else self.head.weight

    def forward(
        self,
        ids_BS: Tensor,
        targets_BS: Tensor,
        *,
        label_B: Tensor | None = None,
        step: int = 0,
        routes_causally: bool = False,
        by_sequence: bool = False,
    ) -> ModelOutput:
        """Losses over the positions from `train.loss_start` on.

        step: the optimiser step in training, the batch's number in evaluation (random routers).
        label_B: int64, the value of `moe.label_column`; needed by the label router alone.
        routes_causally: where a sequence is routed by the mean of all its positions, each position
            by the mean of those up to it; no effect on other routers.
        by_sequence: whether the losses of the sequences are told as well.
        """
        x_BSD, decisions = self.hidden(
            ids_BS, label_B=label_B, step=step, routes_causally=routes_causally
        )
        counted = slice(self.config.train.loss_start, None)
        targets_T = targets_BS[:, counted].flatten()
        logits_TV = F.linear(x_BSD[:, counted].flatten(0, 1), self.head_weight)
        loss_sum = F.cross_entropy(logits_TV, targets_T, reduction="sum")
        loss = loss_sum / len(targets_T)
        aux_loss, balance_loss, z = self._auxiliary(decisions, ids_BS.shape[1])
        return ModelOutput(
            loss=loss,
            loss_sum=loss_sum,
            count=len(targets_T),
            aux_loss=aux_loss,
            balance_loss=balance_loss,
            z_loss=z,
            routing=decisions,
            loss_sum_B=_by_sequence(logits_TV, targets_T, len(ids_BS)) if by_sequence else None,
        )

    def _auxiliary(
        self, decisions: list[Routing], sequence_length: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Weighted sum, balance loss, z-loss."""
        moe, zero = self.config.moe, self.token_embedding.weight.new_zeros(())
        scored = [
            (layer.balance(routing, sequence_length), z_loss(routing.logits))
            for layer, routing in zip(self.moe_layers(), decisions, strict=True)
            if layer.balance is not None
        ]
        if not scored:
            return zero, zero, zero
        balance_loss, z = (torch.stack(losses).mean() for losses in zip(*scored, strict=True))
        aux_loss = zero
        if moe.balance in ("switch", "sequence"):
            aux_loss = aux_loss + moe.balance_coefficient * balance_loss
        if moe.z_loss_coefficient:
            aux_loss = aux_loss + moe.z_loss_coefficient * z
        return aux_loss, balance_loss.detach(), z.detach()

    def compile_parts(self) -> None:
        """Compiles attention and FFNs, where the time goes, one by one.

        Experts on the grouped path have no shape that depends on their loads, so changing loads
        compile nothing again; where units have different numbers of experts there is such a shape,
        and they stay as they are. So do routers: a random one draws by the step's number.
        """
        for block in self.blocks:
            block.attention.compile(dynamic=False)
            parts = [block.ffn]
            if isinstance(block.ffn, MoELayer):
                parts = [block.ffn.shared]
                if not (self.config.moe.experts_choose or self.config.moe.limits_capacity):
                    parts.append(block.ffn.experts)
            for part in parts:
                if part is not None:
                    part.compile(dynamic=False)

    def moe_layers(self) -> list[MoELayer]:
        return [block.ffn for block in self.blocks if isinstance(block.ffn, MoELayer)]

    def router_bias(self) -> Tensor | None:
        """The loss-free bias on the selection, [L, N] over the MoE blocks; None without one."""
        if not self.config.moe.balances_by_bias:
            return None
        biases = [layer.balance.bias_N for layer in self.moe_layers() if layer.balance is not None]
        return torch.stack(biases).expand(len(self.moe_layers()), -1)

    def matrices(self) -> list[Stacked]:
        """The weights of the blocks that are matrices, with what each stacks: queries, keys and
        values, gates and what they multiply, experts."""
        return [
            m for block in self.blocks for m in block.attention.matrices() + block.ffn.matrices()
        ]

    def begin_step(self) -> None:
        """Call before the first micro-batch of an optimiser step."""
        for layer in self.moe_layers():
            if layer.balance is not None:
                layer.balance.begin_step()

    def end_step(self) -> None:
        """Call once after an optimiser step, on every worker."""
        for layer in self.moe_layers():
            if layer.balance is not None:
                layer.balance.end_step()


def _by_sequence(logits_TV: Tensor, targets_T: Tensor, num_sequences: int) -> Tensor:
    loss_T = F.cross_entropy(logits_TV, targets_T, reduction="none")
    return loss_T.view(num_sequences, -1).double().sum(1)
