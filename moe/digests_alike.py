"""Digests of code that trains the same: their results are pooled, found and kept as one's."""

from __future__ import annotations

# Of each group the first stands for all, and never changes: runs are kept under its name.
# A line is added where code was written anew and trains the same to the bit
# (tests/upgrade/test_trains_as_before.py); code that trains otherwise begins a group, or has none.
ALIKE: tuple[tuple[str, ...], ...] = (
    (
        "96dacceb6cfecc15",  # commit 016369d, by the rule of then: over the text of all files
        "59037c1427ffc158",  # the same code, by the rule of moe.code_digest
        "3b29385983546016",  # axes of blocks (norm, position, activation, heads) at their defaults
        "606d2750482cff6e",  # modules that say how their tensors begin
        "ae8b93682d198151",  # files of more kinds, labels that ride along, bytes of normalised text
        "3316a9eeb27e5fad",  # the names of a mixture's parts apart from how it is read
        "0d14de19404d3a26",  # experts that choose, room for a few, learned noise, at their defaults
        "70e7781a193f48fc",  # gradients of several workers summed by torch, one worker as before
        "b4c694f0bd27bcb9",  # scales that follow the width, at their default
        "5dfefd595b154dab",  # mixtures that start from a dense trial, which none did before
        "173058f86ca6cfab",  # micro-batches that say which is the last, counts that are known
        "37e59e818367bc7b",  # a test split and causal routes, which are measured beside the rest
        "2e923cdbdbc2ec7a",  # weights spread over workers, unsharded runs as before
        "25f7be83e2f3c94b",  # losses by document, told beside those of the whole
        "89bce676e3e51d1f",  # memory of sharded workers that goes back at once
        "32eec9e5d72d3ded",  # evaluations at further steps, where they are asked for
        "ff9170f578d09793",  # the rule counts the functions of the metrics that a run calls
        "dd58d36d3ef3f8de",  # a sharded block that gathers no other in its backward pass, on a CPU
        # Few sequences among many experts are added up in another order, on a CPU: with four
        # experts, up to four sequences in a micro-batch, which no scale of studies.scales has.
        "c6312d109a2e5d4c",  # at every width
        "c21fab94784e2f82",  # where experts are narrow, or most have one at most
        "a6ba6c2e9fb827d4",  # shards of a checkpoint that Python 3.11.2 wrote are read
    ),
)
