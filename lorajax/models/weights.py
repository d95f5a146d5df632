"""Weights from a checkpoint straight into (sharded) device arrays, and back to a Hugging Face folder.

One tensor of the checkpoint is on the host at a time, and of it only the part that this host's devices hold.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from safetensors.numpy import save_file

from lorajax.errors import LorajaxError
from lorajax.files import replacing
from lorajax.lora.adapter import Adapter, head_of, size, updates
from lorajax.mesh import make_mesh, sharding
from lorajax.models.kinds import Model, build
from lorajax.models.quantize import Quantize, check_kind, cut, encode, is_block_kernel, refuse_quantized, tile_size
from lorajax.models.quantize import quantize as quantized
from lorajax.models.safetensors_folder import TensorSource
from lorajax.models.tables import Config, is_unused, table
from lorajax.models.tensors import Path as TensorPath
from lorajax.models.tensors import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_weights(
    source: TensorSource,
    config: Config,
    *,
    dtype=jnp.float32,
    mesh: Mesh | None = None,
    quantize: Quantize = "none",
) -> Model:
    """The model `config` with the weights of `source`, in `dtype`, laid out on `mesh` (one device when None).

    With `quantize`, every kernel of the blocks is turned into codes as it is read, a layer at a time.

    Raises:
      LorajaxError: a tensor is missing, has another shape than the config says, or belongs to no parameter; the model
        cannot be quantised so (see `lorajax.models.quantize`).
    """
    check_kind(quantize)
    rows = table(config, source.shapes)
    check_tensors(source, config, rows)
    mesh = mesh or make_mesh()
    model = nnx.eval_shape(lambda: quantized(build(config, dtype=dtype), quantize))
    graphdef, state = nnx.split(model)
    flat = dict(nnx.to_flat_state(state))
    for tensor in rows:
        kind = quantize if is_block_kernel(tensor) else "none"
        for path, array in _load(source, tensor, config.num_layers, dtype, mesh, kind).items():
            flat[path] = flat[path].replace(array)
    return nnx.merge(graphdef, nnx.from_flat_state(flat))


def check_tensors(source: TensorSource, config: Config, rows: list[Tensor]) -> None:
    """Raises LorajaxError unless `source` holds exactly the tensors of the table `rows`, in their shapes."""
    expected = {name: t.stored_shape for t in rows for name in t.names(config.num_layers)}
    for name, shape in expected.items():
        if name not in source.shapes:
            raise LorajaxError(f"tensor {name} is missing from the checkpoint; expected shape {list(shape)}")
        if source.shapes[name] != shape:
            found = list(source.shapes[name])
            raise LorajaxError(f"{source.where(name)}: tensor {name} has shape {found}; config.json says {list(shape)}")
    unknown = [n for n in source.shapes if n not in expected and not is_unused(n, config)]
    if unknown:
        raise LorajaxError(
            f"{source.where(unknown[0])}: {len(unknown)} tensors belong to no parameter of {config.architecture}, "
            f"the first is {unknown[0]}"
        )


def _load(
    source: TensorSource, tensor: Tensor, num_layers: int, dtype, mesh: Mesh, kind: Quantize
) -> dict[TensorPath, jax.Array]:
    axes = tensor.axes[::-1] if tensor.transposed else tensor.axes
    stored = sharding(mesh, axes, tensor.stored_shape)

    def read(name: str) -> jax.Array:
        return jax.make_array_from_callback(
            tensor.stored_shape, stored, lambda index: np.asarray(source.read(name, index or ...)).astype(dtype)
        )

    final = sharding(mesh, tensor.axes, tensor.shape)
    if not tensor.stacked:
        return {tensor.path: _orient(final, tensor.transposed)(read(tensor.name))}
    if kind != "none":  # split over the mesh by tiles, so that none is cut
        in_features, out_features = tensor.shape
        final = sharding(mesh, tensor.axes, (in_features // tile_size(in_features), out_features))
    empty, insert = _stack(final, tensor.transposed, kind)
    stack = empty(num_layers, jax.ShapeDtypeStruct(tensor.stored_shape, dtype))
    for layer, name in enumerate(tensor.names(num_layers)):
        stack = insert(stack, read(name), layer)
    if kind == "none":
        return {tensor.path: stack}
    return {(*tensor.path, name): array for name, array in stack._asdict().items()}


@functools.cache
def _orient(final: NamedSharding, transposed: bool):
    return jax.jit(lambda x: x.T if transposed else x, out_shardings=final)


@functools.cache
def _stack(final: NamedSharding, transposed: bool, kind: Quantize):
    """Compiled functions that make an empty stack of layers, and put one layer's tensor into it as it is to be kept."""
    spec = final.spec if kind == "none" else PartitionSpec(final.spec[0], None, final.spec[1])
    stacked = NamedSharding(final.mesh, PartitionSpec(None, *spec))
    encode_tiles = jax.shard_map(functools.partial(encode, kind=kind), mesh=final.mesh, in_specs=spec, out_specs=spec)

    def keep(x: jax.Array):
        x = x.T if transposed else x
        return x if kind == "none" else encode_tiles(cut(x))

    @functools.partial(jax.jit, static_argnums=(0, 1), out_shardings=stacked)
    def empty(num_layers: int, tensor: jax.ShapeDtypeStruct):
        return jax.tree.map(lambda x: jnp.zeros((num_layers, *x.shape), x.dtype), jax.eval_shape(keep, tensor))

    @functools.partial(jax.jit, donate_argnums=0, out_shardings=stacked)
    def insert(stack, x: jax.Array, layer: int):
        return jax.tree.map(lambda rows, row: rows.at[layer].set(row), stack, keep(x))

    return empty, insert


def merge(model: Model, adapter: Adapter) -> Model:
    """A copy of `model` with the updates of one adapter added to its weights, in float32 before rounding.

    Raises:
      LorajaxError: `adapter` is a set of more than one, or has a classification head, for which a model has no place;
        `model` is quantised.
    """
    refuse_quantized(model, "merging")
    if head_of(adapter) is not None:
        raise LorajaxError("an adapter with a classification head cannot be merged into a model, which has none")
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


def save_hf(
    model: Model,
    folder: Path,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    adapter: Adapter | None = None,
    shard_bytes: int = 4 << 30,
) -> None:
    """Writes `model` (with `adapter` merged, when given) as a Hugging Face folder that transformers loads.

    Files hold up to `shard_bytes` each; more than one come with an index. `tokenizer` is saved beside them.

    Raises:
      LorajaxError: `folder` exists and is not empty, or cannot be written; `model` is quantised.
    """
    refuse_quantized(model, "exporting")
    check_new_folder(folder)
    model = merge(model, adapter) if adapter is not None else model
    flat = dict(nnx.to_flat_state(nnx.split(model)[1]))
    shards: list[list[tuple[str, Tensor, int | None]]] = [[]]
    filled = 0
    for tensor in table(model.config):
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
