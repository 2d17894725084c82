"""What may stand in the config of a model: classes with their modules, functions, and weights per layer.

The list is the border. A class that is missing here is refused, whatever Keras' own safe mode thinks of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Config = Mapping[str, Any]
Shape = tuple[int, ...]
Weights = dict[str, Shape]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ACTIVATIONS = _words(
    "linear relu relu6 elu selu celu gelu silu swish tanh sigmoid hard_sigmoid hard_silu hard_swish softmax "
    "log_softmax softplus softsign leaky_relu exponential mish"
)
INITIALIZERS = _words(
    "Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity LecunNormal LecunUniform Ones Orthogonal "
    "RandomNormal RandomUniform TruncatedNormal VarianceScaling Zeros"
)
REGULARIZERS = _words("L1 L2 L1L2 OrthogonalRegularizer")
CONSTRAINTS = _words("MaxNorm MinMaxNorm NonNeg UnitNorm")
OPTIMIZERS = _words("Adam AdamW Adamax Adadelta Adagrad Ftrl Lion Nadam RMSprop SGD")
SCHEDULES = _words("CosineDecay CosineDecayRestarts ExponentialDecay InverseTimeDecay PiecewiseConstantDecay")
LOSSES = _words(
    "BinaryCrossentropy BinaryFocalCrossentropy CategoricalCrossentropy SparseCategoricalCrossentropy Huber LogCosh "
    "MeanAbsoluteError MeanSquaredError MeanAbsolutePercentageError Poisson Hinge"
)
METRICS = _words(
    "AUC Accuracy BinaryAccuracy BinaryCrossentropy CategoricalAccuracy SparseCategoricalAccuracy MeanAbsoluteError "
    "MeanSquaredError RootMeanSquaredError Precision Recall Mean R2Score"
)
OWN_MODULE = "tapeline.canvas.transpile.layers"
OWN_LAYERS = frozenset({"SelectFields", "WindowNorm"})

# What to use in place of a layer that people bring often.
INSTEAD = {
    "Lambda": "use tapeline>SelectFields instead",
    "TFSMLayer": "save the model as .keras",
    "Sequential": "build the model with keras.Model(inputs, outputs)",
}

# Fields that name a file, a place or code in some class; a text in them is never read.
PLACES = _words(
    "vocabulary vocabulary_file idf_weights filepath file_path filename file path directory url uri origin "
    "call_endpoint call_training_endpoint function lambda code module_path"
)


def _dense(config: Config, shape: Shape) -> Weights:
    units = _whole(config["units"])
    return _kernel_bias((shape[-1], units), units, config)


def _conv(axes: int) -> Callable[[Config, Shape], Weights]:
    def weights(config: Config, shape: Shape) -> Weights:
        filters, groups = _whole(config["filters"]), _whole(config.get("groups", 1))
        kernel = _sizes(config["kernel_size"], axes)
        return _kernel_bias((*kernel, shape[-1] // groups, filters), filters, config)

    return weights


def _rnn(gates: int) -> Callable[[Config, Shape], Weights]:
    def weights(config: Config, shape: Shape) -> Weights:
        units = _whole(config["units"])
        found: Weights = {"cell/vars/0": (shape[-1], gates * units), "cell/vars/1": (units, gates * units)}
        if config.get("use_bias", True):
            # A GRU that resets after the product has one bias for the input and one for the state.
            doubled = gates == 3 and config.get("reset_after", True)
            found["cell/vars/2"] = (2, gates * units) if doubled else (gates * units,)
        return found

    return weights


def _bidirectional(config: Config, shape: Shape) -> Weights:
    found: Weights = {}
    for field, part in (("layer", "forward_layer"), ("backward_layer", "backward_layer")):
        inner = config.get(field) or config["layer"]
        if inner["class_name"] not in ("LSTM", "GRU", "SimpleRNN"):
            raise ValueError(f"a Bidirectional of {inner['class_name']}")
        weights = WEIGHTED[inner["class_name"]](inner["config"], shape)
        found |= {f"{part}/{name}": size for name, size in weights.items()}
    return found


def _attention(config: Config, shape: Shape) -> Weights:
    heads, key = _whole(config["num_heads"]), _whole(config["key_dim"])
    value = _whole(config.get("value_dim") or key)
    if config.get("output_shape") is not None or config.get("use_gate"):
        raise ValueError("output_shape and use_gate are not read")
    width = shape[-1]
    found: Weights = {}
    for part, inner in (("query", key), ("key", key), ("value", value)):
        found[f"{part}_dense/vars/0"] = (width, heads, inner)
        if config.get("use_bias", True):
            found[f"{part}_dense/vars/1"] = (heads, inner)
    found["output_dense/vars/0"] = (heads, value, width)
    if config.get("use_bias", True):
        found["output_dense/vars/1"] = (width,)
    return found


def _batch_norm(config: Config, shape: Shape) -> Weights:
    width = (shape[_axis(config)],)
    kept = [width] * (bool(config.get("center", True)) + bool(config.get("scale", True)) + 2)
    return {f"vars/{i}": size for i, size in enumerate(kept)}


def _layer_norm(config: Config, shape: Shape) -> Weights:
    width = (shape[_axis(config)],)
    kept = [width] * (bool(config.get("center", True)) + bool(config.get("scale", True)))
    return {f"vars/{i}": size for i, size in enumerate(kept)}


def _embedding(config: Config, shape: Shape) -> Weights:
    return {"vars/0": (_whole(config["input_dim"]), _whole(config["output_dim"]))}


def _normalization(config: Config, shape: Shape) -> Weights:
    if config.get("mean") is None:
        raise ValueError("statistics are kept as weights; give mean and variance")
    return {}


def _kernel_bias(kernel: Shape, units: int, config: Config) -> Weights:
    found = {"vars/0": kernel}
    if config.get("use_bias", True):
        found["vars/1"] = (units,)
    return found


def _axis(config: Config) -> int:
    axis = config.get("axis", -1)
    if isinstance(axis, list) and len(axis) == 1:
        axis = axis[0]
    if isinstance(axis, bool) or not isinstance(axis, int):
        raise ValueError(f"axis {axis!r}")
    return axis


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1 << 31:
        raise ValueError(f"size {str(value)[:40]!r}")
    return value


def _sizes(value: object, axes: int) -> Shape:
    sizes = value if isinstance(value, list) else [value] * axes
    if len(sizes) != axes:
        raise ValueError(f"{len(sizes)} sizes for {axes} axes")
    return tuple(_whole(size) for size in sizes)


# The weights of a layer: paths below its group in the weights file, and shapes.
WEIGHTED: dict[str, Callable[[Config, Shape], Weights]] = {
    "Dense": _dense,
    "Conv1D": _conv(1),
    "Conv2D": _conv(2),
    "LSTM": _rnn(4),
    "GRU": _rnn(3),
    "SimpleRNN": _rnn(1),
    "Bidirectional": _bidirectional,
    "MultiHeadAttention": _attention,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "Embedding": _embedding,
    "Normalization": _normalization,
}
WEIGHTLESS = _words(
    "InputLayer Activation ReLU LeakyReLU ELU Softmax Flatten Reshape Permute RepeatVector Concatenate Add Subtract "
    "Multiply Average Maximum Minimum Dot Dropout SpatialDropout1D AlphaDropout GaussianNoise GaussianDropout "
    "MaxPooling1D MaxPooling2D AveragePooling1D AveragePooling2D GlobalMaxPooling1D GlobalMaxPooling2D "
    "GlobalAveragePooling1D GlobalAveragePooling2D ZeroPadding1D Cropping1D UpSampling1D Masking Rescaling "
    "UnitNormalization ActivityRegularization"
)
LAYERS = WEIGHTLESS | WEIGHTED.keys()

# class name -> modules that may be named for it
CLASSES: dict[str, frozenset[str]] = {}
for _module, _names in (
    ("keras.layers", LAYERS),
    ("keras.initializers", INITIALIZERS),
    ("keras.regularizers", REGULARIZERS),
    ("keras.constraints", CONSTRAINTS),
    ("keras.optimizers", OPTIMIZERS),
    ("keras.optimizers.schedules", SCHEDULES),
    ("keras.losses", LOSSES),
    ("keras.metrics", METRICS),
    ("keras", frozenset({"DTypePolicy"})),
    ("keras.src.models.functional", frozenset({"Functional"})),
    (OWN_MODULE, OWN_LAYERS),
):
    for _name in _names:
        CLASSES[_name] = CLASSES.get(_name, frozenset()) | {_module}
