"""Writes frames.onnx, the energy of each frame of a signal, and signal.npz. Needs numpy and onnx."""

import pathlib

import numpy as np
import onnx
from onnx import TensorProto, helper

here = pathlib.Path(__file__).parent
info = helper.make_tensor_value_info
nodes = [
    helper.make_node("Frames", ["signal"], ["frames", "starts"], "cut", domain="com.acme", length=4, hop=2),
    helper.make_node("ReduceL2", ["frames", "axis"], ["energy"], "energy", keepdims=0),
]
graph = helper.make_graph(
    nodes,
    "frames",
    [info("signal", TensorProto.FLOAT, ["N"])],
    [info("energy", TensorProto.FLOAT, ["F"]), info("starts", TensorProto.INT64, ["F"])],
    [helper.make_tensor("axis", TensorProto.INT64, [1], [1])],
    value_info=[info("frames", TensorProto.FLOAT, ["F", 4])],
)
opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.acme", 1)]
onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), here / "frames.onnx")
np.savez(here / "signal.npz", signal=np.sin(np.arange(11, dtype=np.float32)))
