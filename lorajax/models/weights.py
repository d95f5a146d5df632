"""Weights from a checkpoint straight into (sharded) device arrays, and back to a Hugging Face folder.

One tensor of the checkpoint is on the host at a time, and of it only the part that this host's devices hold.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from safetensors.numpy import save_file

from lorajax.errors import LorajaxError
from lorajax.files import replacing
from lorajax.lora.adapter import Adapter, size, updates
from lorajax.mesh import make_mesh, sharding
from lorajax.models.config import ModelConfig
from lorajax.models.llama import Llama
from lorajax.models.safetensors_folder import TensorSource
from lorajax.models.tensors import Tensor, is_redundant, tensors


def load_weights(source: TensorSource, config: ModelConfig, *, dtype=jnp.float32, mesh: Mesh | None = None) -> Llama:
    """The model `config` with the weights of `source`, in `dtype`, laid out on `mesh` (one device when None).

    Raises:
      LorajaxError: a tensor is missing, has another shape than the config says, or belongs to no parameter.
    """
    table = tensors(config)
    check_tensors(source, config, table)
    mesh = mesh or make_mesh()
    model = nnx.eval_shape(lambda: Llama(config, dtype=dtype, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(model)
    flat = dict(nnx.to_flat_state(state))
    for tensor in table:
        flat[tensor.path] = flat[tensor.path].replace(_load(source, tensor, config.num_layers, dtype, mesh))
    return nnx.merge(graphdef, nnx.from_flat_state(flat))


def check_tensors(source: TensorSource, config: ModelConfig, table: list[Tensor]) -> None:
    """Raises LorajaxError unless `source` holds exactly the tensors of `table`, in their shapes."""
    expected = {name: t.stored_shape for t in table for name in t.names(config.num_layers)}
    for name, shape in expected.items():
        if name not in source.shapes:
            raise LorajaxError(f"tensor {name} is missing from the checkpoint; expected shape {list(shape)}")
        if source.shapes[name] != shape:
            found = list(source.shapes[name])
            raise LorajaxError(f"{source.where(name)}: tensor {name} has shape {found}; config.json says {list(shape)}")
    unknown = [n for n in source.shapes if n not in expected and not is_redundant(n, config)]
    if unknown:
        raise LorajaxError(
            f"{source.where(unknown[0])}: {len(unknown)} tensors belong to no parameter of {config.architecture}, "
            f"the first is {unknown[0]}"
        )


def _load(source: TensorSource, tensor: Tensor, num_layers: int, dtype, mesh: Mesh) -> jax.Array:
    axes = tensor.axes[::-1] if tensor.transposed else tensor.axes
    stored = sharding(mesh, axes, tensor.stored_shape)

    def read(name: str) -> jax.Array:
        return jax.make_array_from_callback(
            tensor.stored_shape, stored, lambda index: np.asarray(source.read(name, index or ...)).astype(dtype)
        )

    final = sharding(mesh, tensor.axes, tensor.shape)
    if not tensor.stacked:
        return _orient(final, tensor.transposed)(read(tensor.name))
    stacked = NamedSharding(mesh, PartitionSpec(None, *final.spec))
    stack = jax.jit(lambda: jnp.zeros((num_layers, *tensor.shape), dtype), out_shardings=stacked)()
    for layer, name in enumerate(tensor.names(num_layers)):
        stack = _insert(stacked, tensor.transposed)(stack, read(name), layer)
    return stack


@functools.cache
def _orient(final: NamedSharding, transposed: bool):
    return jax.jit(lambda x: x.T if transposed else x, out_shardings=final)


@functools.cache
def _insert(stacked: NamedSharding, transposed: bool):
    def insert(stack: jax.Array, x: jax.Array, layer: int) -> jax.Array:
        return stack.at[layer].set(x.T if transposed else x)

    return jax.jit(insert, donate_argnums=0, out_shardings=stacked)


def merge(model: Llama, adapter: Adapter) -> Llama:
    """A copy of `model` with the updates of one adapter added to its weights, in float32 before rounding.

    Raises:
      LorajaxError: `adapter` is a set of more than one.
    """
    if size(adapter) != 1:
        raise LorajaxError(f"merge takes one adapter, found a set of {size(adapter)}; pick one with take(adapter, [i])")
    graphdef, state = nnx.split(model)
    flat = dict(nnx.to_flat_state(state))
    for path, delta in updates(adapter).items():
        key = ("blocks", *path.split("."), "kernel")
        kernel = flat[key][...]
        flat[key] = flat[key].replace((kernel.astype(jnp.float32) + delta[:, 0]).astype(kernel.dtype))
    return nnx.merge(graphdef, nnx.from_flat_state(flat))


def check_new_folder(folder: Path) -> None:
    """Raises LorajaxError unless `folder` can be written to without losing anything: new, or an empty folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise LorajaxError(f"{folder}: exists and is not empty; name a new folder to export to")


def save_hf(model: Llama, folder: Path, *, tokenizer=None, adapter: Adapter | None = None, shard_bytes: int = 4 << 30):
    """Writes `model` (with `adapter` merged, when given) as a Hugging Face folder that transformers loads.

    Files hold up to `shard_bytes` each; more than one come with an index. `tokenizer` is saved beside them.

    Raises:
      LorajaxError: `folder` exists and is not empty, or cannot be written.
    """
    check_new_folder(folder)
    model = merge(model, adapter) if adapter is not None else model
    flat = dict(nnx.to_flat_state(nnx.split(model)[1]))
    shards: list[list[tuple[str, Tensor, int | None]]] = [[]]
    filled = 0
    for tensor in tensors(model.config):
        for layer, name in enumerate(tensor.names(model.config.num_layers)):
            nbytes = int(np.prod(tensor.shape)) * flat[tensor.path][...].dtype.itemsize
            if shards[-1] and filled + nbytes > shard_bytes:
                shards.append([])
                filled = 0
            shards[-1].append((name, tensor, layer if tensor.stacked else None))
            filled += nbytes

    def value(tensor: Tensor, layer: int | None) -> np.ndarray:
        x = flat[tensor.path][...]
        x = np.asarray(x if layer is None else x[layer])
        return np.ascontiguousarray(x.T if tensor.transposed else x)

    count = len(shards)
    names = [f"model-{i + 1:05}-of-{count:05}.safetensors" if count > 1 else "model.safetensors" for i in range(count)]
    with replacing(folder) as temporary:
        temporary.mkdir()
        for file, shard in zip(names, shards, strict=True):
            save_file({n: value(t, layer) for n, t, layer in shard}, temporary / file, metadata={"format": "pt"})
        if count > 1:
            weight_map = {name: file for file, shard in zip(names, shards, strict=True) for name, _, _ in shard}
            index = {"metadata": {}, "weight_map": weight_map}
            (temporary / "model.safetensors.index.json").write_text(json.dumps(index, indent=1), "utf-8")
        dtype = str(flat["embedding",][...].dtype)
        keys = model.config.to_hf() | {"torch_dtype": dtype}
        (temporary / "config.json").write_text(json.dumps(keys, indent=2) + "\n", "utf-8")
        if tokenizer is not None:
            tokenizer.save_pretrained(str(temporary))
