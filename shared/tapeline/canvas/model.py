"""The nodes of a canvas and the canvas itself, as frozen models discriminated by `kind`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from tapeline.canvas.limits import MAX_AXES, MAX_COLUMNS, MAX_FEATURES, MAX_NODES, MAX_STACK, MAX_TEXT, MAX_UNITS
from tapeline.errors import TapelineError
from tapeline.security.names import feature_name


def _named(text: str) -> str:
    try:
        return feature_name(text, field="name")
    except TapelineError as error:
        # Braces would be read as places to fill in.
        raise PydanticCustomError("invalid_name", "{reason}", {"reason": error.message}) from error


NodeId = Annotated[str, Field(strict=True, pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
FeatureName = Annotated[str, Field(strict=True), AfterValidator(_named)]
Text = Annotated[str, Field(strict=True, max_length=MAX_TEXT)]
Flag = Annotated[bool, Field(strict=True)]
Whole = Annotated[int, Field(strict=True)]
Real = Annotated[float, Field(strict=True)]
Share = Annotated[float, Field(strict=True, ge=0, lt=1)]
Units = Annotated[int, Field(strict=True, ge=1, le=MAX_UNITS)]
Size = Annotated[int, Field(strict=True, ge=1, le=MAX_UNITS)]
Axis = Annotated[int, Field(strict=True, ge=-MAX_AXES, lt=MAX_AXES)]
Penalty = Annotated[float, Field(strict=True, ge=0, le=1000)]
Activation = Literal[
    "linear", "relu", "elu", "selu", "gelu", "silu", "tanh", "sigmoid", "softmax", "softplus", "leaky_relu"
]
Loss = Literal[
    "auto",
    "binary_crossentropy",
    "sparse_categorical_crossentropy",
    "huber",
    "mean_squared_error",
    "mean_absolute_error",
]
One = Annotated[tuple[NodeId, ...], Field(min_length=1, max_length=1)]
Several = Annotated[tuple[NodeId, ...], Field(min_length=1, max_length=64)]
TwoOrMore = Annotated[tuple[NodeId, ...], Field(min_length=2, max_length=64)]


class Frozen(BaseModel):
    """A model that cannot be changed and takes no field that it does not know."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True, use_attribute_docstrings=True
    )


class NodeBase(Frozen):
    """What every node has."""

    title: ClassVar[str]
    category: ClassVar[str]
    min_inputs: ClassVar[int] = 1
    max_inputs: ClassVar[int] = 1

    id: NodeId
    """Unique in the canvas; layer names and seeds are made from it."""
    component_name: Text = ""
    """Name by which weights are taken over from another model; unique unless empty."""
    is_trainable: Flag = True
    """False freezes the layers of this node."""
    notes: Text = ""
    """For people; means nothing to the model."""


class Input(NodeBase):
    """Features of the asset, joined on their last axis."""

    title = "Input"
    category = "data"
    min_inputs = 0
    max_inputs = 0

    kind: Literal["input"]
    features: Annotated[tuple[FeatureName, ...], Field(min_length=1, max_length=MAX_FEATURES)]
    """Names of features; several are joined on the last axis."""


class Normalize(NodeBase):
    """Values with the mean and variance of the train rows taken out."""

    title = "Normalise"
    category = "scaling"

    kind: Literal["normalize"]
    inputs: One
    stats: Literal["train"] = "train"
    """Whose statistics are used."""


class WindowNorm(NodeBase):
    """A window scaled by its own values along time, column by column."""

    title = "Window normalise"
    category = "scaling"

    kind: Literal["window_norm"]
    inputs: One
    mode: Literal["last", "zscore", "minmax"] = "zscore"
    """`last`: x / last - 1; `zscore`: (x - mean) / deviation; `minmax`: (x - min) / (max - min)."""


class ColumnRange(Frozen):
    """Columns from `start` to before `stop`, every `step`-th, as a Python slice counts."""

    start: Whole | None = None
    stop: Whole | None = None
    step: Annotated[int, Field(strict=True, ge=1)] = 1


class Select(NodeBase):
    """Some positions of one axis, in the order given."""

    title = "Select"
    category = "shape"

    kind: Literal["select"]
    inputs: One
    columns: ColumnRange | Annotated[tuple[Whole, ...], Field(min_length=1, max_length=MAX_COLUMNS)]
    """Positions as a list, or `{start, stop, step}`."""
    axis: Axis = -1
    """Axis of one sample, from 0; -1 is the last."""


class Flatten(NodeBase):
    """All values of a sample on one axis."""

    title = "Flatten"
    category = "shape"

    kind: Literal["flatten"]
    inputs: One


class Reshape(NodeBase):
    """The same values in another shape."""

    title = "Reshape"
    category = "shape"

    kind: Literal["reshape"]
    inputs: One
    target: Annotated[
        tuple[Annotated[int, Field(strict=True, ge=-1, le=16_777_216)], ...],
        Field(min_length=1, max_length=MAX_AXES),
    ]
    """Shape of one sample; one -1 stands for what is left."""


class Concat(NodeBase):
    """Inputs side by side on one axis."""

    title = "Concatenate"
    category = "merge"
    min_inputs = 2
    max_inputs = 64

    kind: Literal["concat"]
    inputs: TwoOrMore
    axis: Axis = -1
    """Axis of one sample, from 0; -1 is the last."""


class Add(NodeBase):
    """The sum of inputs of equal shape."""

    title = "Add"
    category = "merge"
    min_inputs = 2
    max_inputs = 64

    kind: Literal["add"]
    inputs: TwoOrMore


class Multiply(NodeBase):
    """The product of inputs of equal shape, value by value."""

    title = "Multiply"
    category = "merge"
    min_inputs = 2
    max_inputs = 64

    kind: Literal["multiply"]
    inputs: TwoOrMore


class Dense(NodeBase):
    """A stack of fully connected layers on the last axis; several inputs are concatenated first."""

    title = "Dense"
    category = "core"
    max_inputs = 64

    kind: Literal["dense"]
    inputs: Several
    units: Units | Annotated[tuple[Units, ...], Field(min_length=1, max_length=MAX_STACK)]
    """Width of the layer, or a list with one width per layer."""
    activation: Activation = "relu"
    """Applied after each layer of the stack."""
    dropout: Share = 0.0
    """Share of inputs dropped in training, before the stack."""
    use_bias: Flag = True
    """Whether each unit adds a constant of its own."""
    l1: Penalty = 0.0
    """Penalty on the absolute size of weights."""
    l2: Penalty = 0.0
    """Penalty on the squared size of weights."""

    @property
    def widths(self) -> tuple[int, ...]:
        """The widths of the stack, one per layer."""
        return self.units if isinstance(self.units, tuple) else (self.units,)


class Conv1D(NodeBase):
    """Filters that slide along time."""

    title = "Convolution"
    category = "sequence"

    kind: Literal["conv1d"]
    inputs: One
    filters: Units
    """Number of filters, the width of the result."""
    kernel_size: Size = 3
    """Rows that a filter sees."""
    strides: Size = 1
    """Rows from one place to the next."""
    padding: Literal["causal", "valid", "same"] = "causal"
    """`causal` sees no later row."""
    dilation: Size = 1
    """Rows between the rows that a filter sees; more than 1 needs strides of 1."""


class Pool1D(NodeBase):
    """The largest or mean value of stretches of time, or of all of it."""

    title = "Pool"
    category = "sequence"

    kind: Literal["pool1d"]
    inputs: One
    mode: Literal["max", "avg", "global_max", "global_avg"] = "max"
    """The `global` modes leave no time axis."""
    size: Size = 2
    """Rows of one stretch; the `global` modes do not use it."""


class Lstm(NodeBase):
    """Long short-term memory along time."""

    title = "LSTM"
    category = "sequence"

    kind: Literal["lstm"]
    inputs: One
    units: Units
    """Width of the state."""
    return_sequences: Flag = False
    """Whether each row gives a result, or only the last."""
    bidirectional: Flag = False
    """Whether a second one reads backwards; the results stand side by side."""
    dropout: Share = 0.0
    """Share of inputs dropped in training."""


class Gru(NodeBase):
    """Gated recurrent units along time."""

    title = "GRU"
    category = "sequence"

    kind: Literal["gru"]
    inputs: One
    units: Units
    """Width of the state."""
    return_sequences: Flag = False
    """Whether each row gives a result, or only the last."""
    bidirectional: Flag = False
    """Whether a second one reads backwards; the results stand side by side."""
    dropout: Share = 0.0
    """Share of inputs dropped in training."""


class Attention(NodeBase):
    """Each row as a weighted mix of all rows (multi-head self-attention)."""

    title = "Attention"
    category = "sequence"

    kind: Literal["attention"]
    inputs: One
    heads: Annotated[int, Field(strict=True, ge=1, le=256)] = 4
    """Number of heads."""
    key_dim: Units = 16
    """Width of query and key of one head."""
    dropout: Share = 0.0
    """Share of attention weights dropped in training."""
    causal: Flag = True
    """Whether a row sees only itself and earlier ones."""


class BatchNorm(NodeBase):
    """Values scaled by the mean and variance of batches."""

    title = "Batch normalisation"
    category = "scaling"

    kind: Literal["batch_norm"]
    inputs: One
    momentum: Annotated[float, Field(strict=True, gt=0, lt=1)] = 0.99
    """How slowly the moving statistics follow."""
    epsilon: Annotated[float, Field(strict=True, gt=0, le=1)] = 0.001
    """Added to the variance."""


class LayerNorm(NodeBase):
    """Values scaled by the mean and variance of their own last axis."""

    title = "Layer normalisation"
    category = "scaling"

    kind: Literal["layer_norm"]
    inputs: One
    epsilon: Annotated[float, Field(strict=True, gt=0, le=1)] = 0.001
    """Added to the variance."""


class Dropout(NodeBase):
    """A share of values set to zero in training."""

    title = "Dropout"
    category = "regularising"

    kind: Literal["dropout"]
    inputs: One
    rate: Share = 0.1
    """Share of values dropped."""


class GaussianNoise(NodeBase):
    """Random numbers added in training."""

    title = "Gaussian noise"
    category = "regularising"

    kind: Literal["gaussian_noise"]
    inputs: One
    stddev: Annotated[float, Field(strict=True, ge=0, le=1000)] = 0.1
    """Standard deviation of the noise."""


class Activate(NodeBase):
    """An activation on its own."""

    title = "Activation"
    category = "core"

    kind: Literal["activation"]
    inputs: One
    name: Activation = "relu"
    """Which one."""


class Output(NodeBase):
    """One column of a label that the network learns to give; several inputs are concatenated first."""

    title = "Output"
    category = "data"
    max_inputs = 64

    kind: Literal["output"]
    inputs: Several
    feature: FeatureName
    """Name of the label."""
    label_index: Annotated[int, Field(strict=True, ge=0, le=65_535)] = 0
    """Column of the label."""
    gaussian_noise: Annotated[float, Field(strict=True, ge=0, le=1000)] = 0.0
    """Standard deviation of noise before the layer."""
    dropout: Share = 0.0
    """Share of inputs dropped in training."""
    class_weighting: Annotated[float, Field(strict=True, ge=0, le=1)] = 0.0
    """0: classes count as often as they occur; 1: all classes count alike."""
    activation: Literal["auto"] | Activation = "auto"
    """`auto` follows from the type of the column."""
    loss_weight: Annotated[float, Field(strict=True, ge=0, le=1_000_000)] = 1.0
    """Share of this output in the loss."""
    loss: Loss = "auto"
    """`auto` follows from the type of the column."""


Node = Annotated[
    Input
    | Normalize
    | WindowNorm
    | Select
    | Flatten
    | Reshape
    | Concat
    | Add
    | Multiply
    | Dense
    | Conv1D
    | Pool1D
    | Lstm
    | Gru
    | Attention
    | BatchNorm
    | LayerNorm
    | Dropout
    | GaussianNoise
    | Activate
    | Output,
    Field(discriminator="kind"),
]

NODE_TYPES: tuple[type[NodeBase], ...] = (
    Input,
    Normalize,
    WindowNorm,
    Select,
    Flatten,
    Reshape,
    Concat,
    Add,
    Multiply,
    Dense,
    Conv1D,
    Pool1D,
    Lstm,
    Gru,
    Attention,
    BatchNorm,
    LayerNorm,
    Dropout,
    GaussianNoise,
    Activate,
    Output,
)


def kind_of(node_type: type[NodeBase]) -> str:
    """The `kind` that the nodes of a type carry."""
    return str(node_type.model_fields["kind"].annotation.__args__[0])  # type: ignore[union-attr]


def inputs_of(node: NodeBase) -> tuple[str, ...]:
    """The ids that a node reads, in order; none for an input node."""
    return tuple(getattr(node, "inputs", ()))


class Canvas(Frozen):
    """The picture of a network: nodes joined by `inputs`, and how to train it."""

    schema_: Literal["tapeline.canvas/1"] = Field(alias="schema")
    """Which form of canvas this is."""
    name: Annotated[str, Field(strict=True, max_length=255)] = ""
    """For people; means nothing to the model."""
    nodes: Annotated[tuple[Node, ...], Field(min_length=1, max_length=MAX_NODES)]
    """In any order."""
    training: dict[str, Any] = Field(default_factory=dict)
    """Keys of the run config, such as `asset`, `epochs` and `batch_size`."""
    ui: dict[str, Any] = Field(default_factory=dict)
    """Where nodes are drawn; means nothing to the model."""
    notes: Text = ""
    """For people; means nothing to the model."""

    @property
    def inputs(self) -> list[list[str]]:
        """The features of each input node, in the order of the JSON."""
        return [list(node.features) for node in self.nodes if isinstance(node, Input)]

    @property
    def outputs(self) -> list[dict[str, Any]]:
        """Each output as a dict of `OUTPUT_KEYS`, in the order of the JSON; whole numbers are ints."""
        return [{key: _whole(getattr(node, key)) for key in OUTPUT_KEYS} for node in self.output_nodes]

    @property
    def input_nodes(self) -> list[Input]:
        """The input nodes in the order of the JSON, which is that of a model's inputs."""
        return [node for node in self.nodes if isinstance(node, Input)]

    @property
    def output_nodes(self) -> list[Output]:
        """The output nodes in the order of the JSON, which is that of a model's outputs."""
        return [node for node in self.nodes if isinstance(node, Output)]


def _whole(value: Any) -> Any:
    # As in canonical JSON, where 1.0 and 1 are one number and written 1.
    return int(value) if isinstance(value, float) and value.is_integer() else value


OUTPUT_KEYS = (
    "component_name",
    "label_index",
    "gaussian_noise",
    "dropout",
    "class_weighting",
    "activation",
    "feature",
)
