"""The state of a sharded run, written by all workers at once and read by any number of them.

By torch.distributed.checkpoint: each worker writes the shards that it holds, and a reader fills the
tensors that it has, whole or shards of another number of workers. The files lie in a checkpoint's
folder, which `moe.train.run_folder` makes appear whole, and verifies, as any other.

Names in it: `model.NAME` for what a model's state dict holds, `optimizer.NAME.MOMENT` for what
AdamW keeps of a weight.
"""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from enum import Enum, EnumType
from typing import Any, cast

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemBase
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.tensor import DTensor, distribute_tensor

from moe.train.run_folder import STATE_FOLDER, Storage

_MODEL, _OPTIMIZER = "model.", "optimizer."


def state_of(model: nn.Module, optimizer: torch.optim.AdamW | None) -> dict[str, Tensor]:
    """What is saved, and what a load fills: the tensors of the run themselves. Moments that no step
    has made yet are made, as zeros."""
    state = {f"{_MODEL}{name}": tensor for name, tensor in model.state_dict().items()}
    if optimizer is None:
        return state
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for parameter in _trained(optimizer):
        moments = optimizer.state[parameter]
        if not moments:
            moments["step"] = torch.zeros((), device=parameter.device)
            moments["exp_avg"] = torch.zeros_like(parameter, requires_grad=False)
            moments["exp_avg_sq"] = torch.zeros_like(parameter, requires_grad=False)
        for moment, tensor in moments.items():
            state[f"{_OPTIMIZER}{names[id(parameter)]}.{moment}"] = tensor
    return state


def _trained(optimizer: torch.optim.AdamW) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def fill_whole(
    model: nn.Module,
    optimizer: torch.optim.AdamW,
    weights: Mapping[str, Tensor],
    moments: Mapping[str, Any] | None,
) -> None:
    """Gives a sharded model the whole `weights` of a state dict, and its optimiser `moments` (the
    state dict of an unsharded one, whose weights are numbered in the same order). Every worker
    calls it, in the same process group, with the same tensors."""
    for name, tensor in model.state_dict().items():
        _fill(tensor, weights[name])
    if moments is None:
        return
    for number, parameter in enumerate(_trained(optimizer)):
        of_weight = moments["state"][number]
        optimizer.state[parameter] = {
            name: _like(parameter, value) if value.ndim else value.to(parameter.device)
            for name, value in of_weight.items()
        }


def _like(parameter: Tensor, whole: Tensor) -> Tensor:
    shards = torch.zeros_like(parameter, requires_grad=False)
    _fill(shards, whole)
    return shards


@torch.no_grad()
def _fill(tensor: Tensor, whole: Tensor) -> None:
    if isinstance(tensor, DTensor):
        whole = distribute_tensor(
            whole.to(tensor.device), tensor.device_mesh, tensor.placements, src_data_rank=None
        )
    tensor.copy_(whole)


def write_state(storage: Storage, folder: str, state: dict[str, Tensor]) -> dict[str, Any]:
    """Writes this worker's part of `state` below `folder`; every worker of the process group calls
    it. Returns sizes and sha256 of the files that this one wrote, by their names in the folder.

    Raises OSError where the own part cannot be written, and RuntimeError where another's cannot.
    """
    files = _Files(storage)
    place = f"{folder}/{STATE_FOLDER}"
    writer = dcp.FileSystemWriter(place, sync_files=False)  # `Storage` syncs
    writer.fs, writer.path = files, place
    try:
        dcp.save(state, storage_writer=writer)
    except CheckpointException as error:
        causes = [failure for failure, _ in error.failures.values()]
        for cause in causes:
            if isinstance(cause, OSError):
                raise cause from None
        raise RuntimeError(f"a checkpoint could not be written: {causes[0]}") from error
    return {name.removeprefix(f"{folder}/"): record for name, record in files.written.items()}


def read_state(storage: Storage, folder: str, state: dict[str, Tensor]) -> None:
    """Fills the tensors of `state` with what was saved under their names; each worker for itself.

    Raises ValueError where the files want code to run, or a tensor is missing.
    """
    reader = _reader(storage, folder)
    try:
        with _quietly():
            dcp.load(state, storage_reader=reader, no_dist=True)
    except CheckpointException as error:
        cause = next(failure for failure, _ in error.failures.values())
        raise ValueError(f"the state in {storage}/{folder} cannot be read: {cause}") from error


def read_whole(storage: Storage, folder: str) -> dict[str, Tensor]:
    """The state dict of the model, in whole tensors on the CPU."""
    saved = _reader(storage, folder).read_metadata().state_dict_metadata
    state = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in saved.items()
        if name.startswith(_MODEL) and isinstance(entry, TensorStorageMetadata)
    }
    read_state(storage, folder, state)
    return {name.removeprefix(_MODEL): tensor for name, tensor in state.items()}


def _reader(storage: Storage, folder: str) -> _Reader:
    place = f"{folder}/{STATE_FOLDER}" if folder else STATE_FOLDER
    reader = _Reader(place)
    reader.fs, reader.path = _Files(storage), place
    return reader


@contextmanager
def _quietly() -> Generator[None]:
    """torch warns that a load by one process alone takes it to be alone, which is asked for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


class _Reader(dcp.FileSystemReader):
    """Metadata is a pickle: only what torch.distributed.checkpoint itself writes there is made."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with self.fs.create_stream(f"{self.path}/.metadata", "rb") as stream:
            return _PlainUnpickler(io.BytesIO(stream.read())).load()


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "getattr"):
            return _member
        plain = module == "torch" and isinstance(
            getattr(torch, name, None), (torch.dtype, torch.layout, torch.memory_format, type)
        )
        if module.startswith("torch.distributed.checkpoint.") or plain:
            return super().find_class(module, name)
        if (module, name) in {
            ("pathlib", "PosixPath"),
            ("collections", "OrderedDict"),
            ("torch.serialization", "_get_layout"),
        }:
            return super().find_class(module, name)
        raise ValueError(
            "a checkpoint holds tensors and plain values; the metadata of this one wants code to "
            f"run ({module}.{name}), and was not loaded. Find out who wrote it, and remove it."
        )


def _member(kind: Any, name: str) -> Enum:
    """What a pickle by Python 3.11.2 asks of `getattr`: a member of an enumeration, by its name."""
    if not (isinstance(kind, EnumType) and name in kind.__members__):
        raise ValueError(
            "a checkpoint holds tensors and plain values; the metadata of this one wants an "
            f"attribute of {kind!r} ({name}), and was not loaded. Find out who wrote it, and "
            "remove it."
        )
    return kind[name]


class _Files(FileSystemBase):
    """The files of a `Storage`, as torch.distributed.checkpoint asks for them. Paths are names in
    the storage; `written` has sizes and sha256."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.written: dict[str, dict[str, Any]] = {}

    @contextmanager
    def create_stream(self, path: str, mode: str) -> Generator[io.IOBase]:
        if mode == "rb":
            with self.storage.opened(path) as stream:
                yield cast(io.IOBase, stream)
            return
        with self.storage.hashed(path) as stream:
            yield cast(io.IOBase, stream)
        self.written[path] = stream.record

    def concat_path(self, path: str, suffix: str) -> str:
        return f"{path}/{suffix}"

    def init_path(self, path: str) -> str:
        return path

    def rename(self, path: str, new_path: str) -> None:
        self.storage.move(path, new_path)
        self.written[new_path] = self.written.pop(path)

    def mkdir(self, path: str) -> None:
        self.storage.make_folder(path)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: object) -> bool:
        return True

    def exists(self, path: str) -> bool:
        return self.storage.exists(path)

    def rm_file(self, path: str) -> None:
        self.storage.delete_file(path)

    def ls(self, path: str) -> list[str]:
        return [f"{path}/{name}" for name in self.storage.names(path)]
