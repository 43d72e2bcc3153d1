"""Random legal inputs for an ONNX model.

Floats are normal. Integers must be legal as what the graph does with them: an index stays below the rows of the table
that it is looked up in, a mask is a prefix of ones per row. Equal arguments give equal inputs.
"""

import numpy as np
import onnx
from onnx import helper

# Nodes through which an index reaches the table unchanged.
TRANSPARENT = {"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten"}


def binding(text):
    """{"B": 1, "S": 16} from "B=1,S=16"."""
    pairs = (item.split("=") for item in text.split(",") if item)
    return {name.strip(): int(value) for name, value in pairs}


def inputs_of(model):
    """The inputs that a caller gives: old models list their weights among the inputs."""
    weights = {w.name for w in model.graph.initializer}
    return [i for i in model.graph.input if i.name not in weights]


def table_rows(model):
    """{name: rows of the smallest table that it indexes} for the values that index one."""
    sizes = {w.name: list(w.dims) for w in model.graph.initializer}
    for node in model.graph.node:
        for a in node.attribute:
            if node.op_type == "Constant" and a.name == "value":
                sizes[node.output[0]] = list(a.t.dims)
    rows = {}
    for node in reversed(model.graph.node):
        if node.op_type == "Gather" and sizes.get(node.input[0]):
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            found = sizes[node.input[0]][axis]
        elif node.op_type in TRANSPARENT and node.output[0] in rows:
            found = rows[node.output[0]]
            rows[node.input[0]] = min(found, rows.get(node.input[0], found))
            continue
        else:
            continue
        rows[node.input[1]] = min(found, rows.get(node.input[1], found))
    return rows


def extent(dim, sizes, name):
    if dim.HasField("dim_value"):
        return dim.dim_value
    if dim.dim_param not in sizes:
        what = dim.dim_param or "an unnamed dimension"
        raise SystemExit(f"input {name}: the size of {what} is not given, as by --at N=1")
    return sizes[dim.dim_param]


def prefix_mask(shape):
    """Ones; every row but the first ends in a few zeros, a different number each."""
    mask = np.ones(shape, bool)
    length = shape[-1] if shape else 0
    for row in range(1, shape[0] if len(shape) > 1 else 0):
        mask[row, ..., length - min(length - 1, 1 + row * length // 8 % max(1, length)):] = False
    return mask


def random_feeds(model, sizes, seed=0):
    """{name: array} for a model (a path or a ModelProto), sizes such as {"B": 1} and a seed."""
    if not isinstance(model, onnx.ModelProto):
        model = onnx.load(model, load_external_data=False)
    rng = np.random.default_rng(seed)
    rows = table_rows(model)
    feeds = {}
    for value in inputs_of(model):
        tensor = value.type.tensor_type
        shape = [extent(d, sizes, value.name) for d in tensor.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if "mask" in value.name.lower():
            feeds[value.name] = prefix_mask(shape).astype(dtype)
        elif np.issubdtype(dtype, np.floating):
            feeds[value.name] = rng.standard_normal(shape).astype(dtype)
        else:
            feeds[value.name] = rng.integers(0, rows.get(value.name, 2), shape).astype(dtype)
    return feeds
