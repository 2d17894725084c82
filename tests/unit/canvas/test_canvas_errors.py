"""Broken canvases: each answer names the node, the code and the place in the JSON that was given."""

import copy
import json
import subprocess
import sys
from typing import Any

import pytest

from tapeline.canvas import Canvas, LabelColumns, validate
from tapeline.canvas.excerpt import excerpt
from tapeline.errors import CODES, TapelineError

FEATURES = {"window": (20, 8), "ret": (1,), "size": (2,)}
LABELS = {"updown": LabelColumns.of("regression", "binary"), "barrier": LabelColumns.of("multiclass(3)")}


def good() -> dict[str, Any]:
    return {
        "schema": "tapeline.canvas/1",
        "nodes": [
            {"id": "in1", "kind": "input", "features": ["window"]},
            {"id": "in2", "kind": "input", "features": ["ret", "size"]},
            {"id": "f1", "kind": "flatten", "inputs": ["in1"]},
            {"id": "d1", "kind": "dense", "inputs": ["f1", "in2"], "units": [8, 4], "component_name": "trunk"},
            {"id": "o1", "kind": "output", "inputs": ["d1"], "feature": "updown", "label_index": 1},
        ],
    }


def resolve(pointer: str, value: Any) -> Any:
    for step in pointer.split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


def put(place: str, value: Any) -> Any:
    def change(canvas: dict[str, Any]) -> None:
        *path, last = place.split("/")[1:]
        at: Any = canvas
        for step in path:
            at = at[int(step)] if isinstance(at, list) else at[step]
        if isinstance(at, list):
            at[int(last)] = value
        else:
            at[last] = value

    return change


def drop(place: str) -> Any:
    def change(canvas: dict[str, Any]) -> None:
        *path, last = place.split("/")[1:]
        at: Any = canvas
        for step in path:
            at = at[int(step)] if isinstance(at, list) else at[step]
        del at[int(last) if isinstance(at, list) else last]

    return change


def node(**fields: Any) -> Any:
    return lambda canvas: canvas["nodes"].insert(3, fields)


# what is done to the good canvas, the node named, the code, the pointer
BROKEN: list[tuple[str, Any, str | None, str, str]] = [
    ("no schema", drop("/schema"), None, "missing", ""),
    ("other schema", put("/schema", "canvas"), None, "unknown_value", "/schema"),
    ("newer schema", put("/schema", "tapeline.canvas/2"), None, "schema_too_new", "/schema"),
    ("no nodes", put("/nodes", []), None, "too_few", "/nodes"),
    ("nodes no list", put("/nodes", {"a": 1}), None, "tuple_type", "/nodes"),
    ("node no object", put("/nodes/2", 7), None, "model_attributes_type", "/nodes/2"),
    ("unknown top field", put("/node", []), None, "unknown_field", "/node"),
    ("kind missing", drop("/nodes/3/kind"), "d1", "missing", "/nodes/3"),
    ("kind unknown", put("/nodes/3/kind", "dens"), "d1", "unknown_kind", "/nodes/3/kind"),
    ("kind lambda", put("/nodes/3/kind", "lambda"), "d1", "unknown_kind", "/nodes/3/kind"),
    ("misspelt field", put("/nodes/3/unit", 3), "d1", "unknown_field", "/nodes/3/unit"),
    ("units missing", drop("/nodes/3/units"), "d1", "missing", "/nodes/3"),
    ("units zero", put("/nodes/3/units", 0), "d1", "greater_than", "/nodes/3/units"),
    ("units zero in a list", put("/nodes/3/units", [8, 0]), "d1", "greater_than", "/nodes/3/units/1"),
    ("units huge", put("/nodes/3/units", 10**9), "d1", "less_than", "/nodes/3/units"),
    ("units of 3000 digits", put("/nodes/3/units", 10**3000), "d1", "less_than", "/nodes/3/units"),
    ("units text", put("/nodes/3/units", "64"), "d1", "int_type", "/nodes/3/units"),
    ("units true", put("/nodes/3/units", True), "d1", "int_type", "/nodes/3/units"),
    ("units fraction", put("/nodes/3/units", 1.5), "d1", "int_type", "/nodes/3/units"),
    ("dropout above", put("/nodes/3/dropout", 1.2), "d1", "less_than", "/nodes/3/dropout"),
    ("dropout one", put("/nodes/3/dropout", 1), "d1", "less_than", "/nodes/3/dropout"),
    ("dropout below", put("/nodes/3/dropout", -0.1), "d1", "greater_than", "/nodes/3/dropout"),
    ("dropout overflows", put("/nodes/3/dropout", 1e308 * 10), None, "invalid_json", ""),
    ("dropout text", put("/nodes/3/dropout", "0.1"), "d1", "float_type", "/nodes/3/dropout"),
    ("activation unknown", put("/nodes/3/activation", "rellu"), "d1", "unknown_value", "/nodes/3/activation"),
    ("activation is code", put("/nodes/3/activation", "os.system"), "d1", "unknown_value", "/nodes/3/activation"),
    ("auto on a dense", put("/nodes/3/activation", "auto"), "d1", "unknown_value", "/nodes/3/activation"),
    ("bias text", put("/nodes/3/use_bias", "no"), "d1", "bool_type", "/nodes/3/use_bias"),
    ("id upper case", put("/nodes/3/id", "D1"), "D1", "invalid_id", "/nodes/3/id"),
    ("id empty", put("/nodes/3/id", ""), "", "invalid_id", "/nodes/3/id"),
    ("id a path", put("/nodes/3/id", "../x"), "../x", "invalid_id", "/nodes/3/id"),
    ("id with newline", put("/nodes/3/id", "d1\n"), "d1\n", "invalid_id", "/nodes/3/id"),
    ("inputs text", put("/nodes/3/inputs", "f1"), "d1", "tuple_type", "/nodes/3/inputs"),
    ("inputs empty", put("/nodes/3/inputs", []), "d1", "too_few", "/nodes/3/inputs"),
    ("two for a flatten", put("/nodes/2/inputs", ["in1", "in2"]), "f1", "too_many", "/nodes/2/inputs"),
    ("an input with inputs", put("/nodes/0/inputs", ["f1"]), "in1", "unknown_field", "/nodes/0/inputs"),
    ("unknown node", put("/nodes/3/inputs", ["f1", "in3"]), "d1", "unknown_node", "/nodes/3/inputs/1"),
    ("duplicate id", put("/nodes/1/id", "in1"), "in1", "duplicate_id", "/nodes/1/id"),
    ("itself", put("/nodes/3/inputs", ["f1", "in2", "d1"]), "d1", "cycle", "/nodes/3/inputs"),
    ("output as input", put("/nodes/2/inputs", ["o1"]), "f1", "output_as_input", "/nodes/2/inputs/0"),
    ("a circle of three", put("/nodes/2/inputs", ["d1"]), "d1", "cycle", "/nodes/3/inputs"),
    ("dangling", put("/nodes/3/inputs", ["f1"]), "in2", "dangling", "/nodes/1/id"),
    ("no output", drop("/nodes/4"), None, "no_output", "/nodes"),
    ("no input", put("/nodes", [good()["nodes"][4] | {"inputs": ["o2"]}]), None, "no_input", "/nodes"),
    (
        "component twice",
        put("/nodes/2/component_name", "trunk"),
        "d1",
        "duplicate_component_name",
        "/nodes/3/component_name",
    ),
    ("feature empty", put("/nodes/0/features", []), "in1", "too_few", "/nodes/0/features"),
    ("feature a path", put("/nodes/0/features", ["a/b"]), "in1", "invalid_name", "/nodes/0/features/0"),
    ("feature hidden", put("/nodes/0/features", ["_grid"]), "in1", "invalid_name", "/nodes/0/features/0"),
    ("feature unknown", put("/nodes/0/features", ["windw"]), "in1", "unknown_feature", "/nodes/0/features/0"),
    ("features do not join", put("/nodes/0/features", ["window", "ret"]), "in1", "merge_mismatch", "/nodes/0/features"),
    ("label unknown", put("/nodes/4/feature", "updwn"), "o1", "unknown_label", "/nodes/4/feature"),
    ("label index", put("/nodes/4/label_index", 2), "o1", "label_index_out_of_range", "/nodes/4/label_index"),
    ("label index below", put("/nodes/4/label_index", -1), "o1", "greater_than", "/nodes/4/label_index"),
    (
        "weights without classes",
        lambda c: c["nodes"][4].update(label_index=0, class_weighting=0.5),
        "o1",
        "class_weighting_needs_classes",
        "/nodes/4/class_weighting",
    ),
    ("class weighting above", put("/nodes/4/class_weighting", 1.5), "o1", "less_than", "/nodes/4/class_weighting"),
    (
        "loss does not fit",
        put("/nodes/4/loss", "sparse_categorical_crossentropy"),
        "o1",
        "loss_mismatch",
        "/nodes/4/loss",
    ),
    ("loss unknown", put("/nodes/4/loss", "hube"), "o1", "unknown_value", "/nodes/4/loss"),
    ("axes do not join", put("/nodes/3/inputs", ["in1", "in2", "f1"]), "d1", "merge_mismatch", "/nodes/3/inputs"),
    ("output of a window", put("/nodes/4/inputs", ["in1"]), "o1", "shape_mismatch", "/nodes/4/inputs"),
    (
        "conv of a vector",
        node(id="x", kind="conv1d", inputs=["in2"], filters=4),
        "x",
        "shape_mismatch",
        "/nodes/3/inputs",
    ),
    (
        "conv too long",
        node(id="x", kind="conv1d", inputs=["in1"], filters=4, kernel_size=30, padding="valid"),
        "x",
        "shape_mismatch",
        "/nodes/3/kernel_size",
    ),
    ("lstm of a vector", node(id="x", kind="lstm", inputs=["f1"], units=4), "x", "shape_mismatch", "/nodes/3/inputs"),
    (
        "column missing",
        node(id="x", kind="select", inputs=["in1"], columns=[8]),
        "x",
        "shape_mismatch",
        "/nodes/3/columns",
    ),
    ("column text", node(id="x", kind="select", inputs=["in1"], columns=["a"]), "x", "int_type", "/nodes/3/columns/0"),
    (
        "range misspelt",
        node(id="x", kind="select", inputs=["in1"], columns={"from": 1}),
        "x",
        "unknown_field",
        "/nodes/3/columns/from",
    ),
    ("reshape", node(id="x", kind="reshape", inputs=["in1"], target=[7, -1]), "x", "shape_mismatch", "/nodes/3/target"),
    ("add", node(id="x", kind="add", inputs=["in1", "in2"]), "x", "merge_mismatch", "/nodes/3/inputs"),
    ("concat of one", node(id="x", kind="concat", inputs=["in1"]), "x", "too_few", "/nodes/3/inputs"),
    ("pool too long", node(id="x", kind="pool1d", inputs=["in1"], size=21), "x", "shape_mismatch", "/nodes/3/size"),
    ("no statistics", node(id="x", kind="normalize", inputs=["f1"]), "x", "no_statistics", "/nodes/3/inputs/0"),
    (
        "momentum one",
        node(id="x", kind="batch_norm", inputs=["f1"], momentum=1.0),
        "x",
        "less_than",
        "/nodes/3/momentum",
    ),
    ("parameters", put("/nodes/3/units", [65_536, 65_536]), "d1", "too_many_parameters", "/nodes/3"),
    (
        "activations",
        lambda c: c["nodes"].__setitem__(
            2, {"id": "f1", "kind": "attention", "inputs": ["in1"], "heads": 256, "key_dim": 65536}
        ),
        "f1",
        "too_many_activations",
        "/nodes/2",
    ),
    ("notes too long", put("/nodes/3/notes", "x" * 5000), "d1", "too_long", "/nodes/3/notes"),
    ("half a character", put("/training", {"asset": "\ud800"}), None, "invalid_value", "/training/asset"),
]


@pytest.mark.parametrize(
    ("change", "node_id", "code", "pointer"), [case[1:] for case in BROKEN], ids=[c[0] for c in BROKEN]
)
def test_a_broken_canvas_is_answered_with_node_code_and_place(
    change: Any, node_id: str | None, code: str, pointer: str
) -> None:
    canvas = copy.deepcopy(good())
    change(canvas)
    validation = validate(json.dumps(canvas), feature_shapes=FEATURES, labels=LABELS)
    assert not validation.ok
    assert (node_id, code, pointer) in [(fault.node, fault.code, fault.pointer) for fault in validation.errors]
    for fault in validation.errors:
        resolve(fault.pointer, canvas)
        assert fault.message
        assert len(fault.message) < 600
        assert fault.hint or fault.code not in ("unknown_field", "unknown_node", "unknown_kind", "unknown_feature")


def test_the_good_canvas_is_good() -> None:
    validation = validate(good(), feature_shapes=FEATURES, labels=LABELS)
    assert validation.errors == ()
    assert validation.parameters == 163 * 8 + 8 + 8 * 4 + 4 + 4 + 1
    assert validation.shapes["f1"] == (160,)


def test_all_errors_are_reported_and_not_the_first_only() -> None:
    canvas = good()
    put("/nodes/3/dropout", 2)(canvas)
    put("/nodes/3/units", 0)(canvas)
    put("/nodes/4/loss", "x")(canvas)
    put("/nodes/2/inputs", ["in9"])(canvas)
    codes = {(fault.node, fault.field, fault.code) for fault in validate(canvas).errors}
    assert {
        ("d1", "dropout", "less_than"),
        ("d1", "units", "greater_than"),
        ("o1", "loss", "unknown_value"),
        ("f1", "inputs", "unknown_node"),
    } <= codes


def test_a_fault_of_one_node_hides_no_unknown_name_of_another() -> None:
    canvas = good()
    put("/nodes/3/unts", 3)(canvas)
    put("/nodes/4/feature", "updwn")(canvas)
    put("/nodes/1/features", ["ret", "sise"])(canvas)
    found = {fault.code for fault in validate(canvas, feature_shapes=FEATURES, labels=LABELS).errors}
    assert found == {"unknown_field", "unknown_label", "unknown_feature"}


def test_the_message_and_the_hint_are_sentences_for_people() -> None:
    canvas = good()
    put("/nodes/3/dropout", 1.2)(canvas)
    (fault,) = validate(canvas).errors
    assert fault.to_json() == {
        "node": "d1",
        "field": "dropout",
        "code": "less_than",
        "pointer": "/nodes/3/dropout",
        "message": "dropout must be below 1, got 1.2",
        "hint": "use a share such as 0.2",
    }


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (put("/nodes/3/dropuot", 0.1), "did you mean 'dropout'?"),
        (put("/nodes/3/kind", "dens"), "did you mean 'dense'?"),
        (put("/nodes/3/activation", "rellu"), "did you mean 'relu'"),
        (put("/nodes/0/features", ["windw"]), "did you mean 'window'?"),
        (put("/nodes/4/feature", "updwn"), "did you mean 'updown'?"),
        (put("/nodes/3/inputs", ["f1", "in22"]), "did you mean 'in2'"),
    ],
)
def test_a_misspelt_word_brings_a_near_one(change: Any, hint: str) -> None:
    canvas = good()
    change(canvas)
    errors = validate(canvas, feature_shapes=FEATURES, labels=LABELS).errors
    assert any((fault.hint or "").startswith(hint) for fault in errors)


def test_a_flattened_window_before_a_convolution_is_explained() -> None:
    canvas = good()
    node(id="x", kind="conv1d", inputs=["f1"], filters=4)(canvas)
    fault = next(f for f in validate(canvas, feature_shapes=FEATURES).errors if f.node == "x" and f.field == "inputs")
    assert fault.message == "expected at least 3 axes, found 2"
    assert fault.hint == "remove the flatten"


def test_no_more_than_a_hundred_errors_are_told() -> None:
    canvas = {"schema": "tapeline.canvas/1", "nodes": [{"id": f"N{i}", "kind": "dense", "unts": 3} for i in range(500)]}
    assert len(validate(canvas).errors) == 100


def test_an_invalid_canvas_becomes_an_error_with_the_list() -> None:
    canvas = good()
    put("/nodes/3/dropout", 1.2)(canvas)
    with pytest.raises(TapelineError) as caught:
        validate(canvas).require()
    assert caught.value.code == "canvas_invalid"
    assert caught.value.data["errors"][0]["pointer"] == "/nodes/3/dropout"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b" " * (512 * 1024 + 1), "canvas_too_large"),
        (b"[" * 100_000, "canvas_too_deep"),
        (b'{"a":' * 100_000, "canvas_too_deep"),
        (b"[" * 33 + b"]" * 33, "canvas_too_deep"),
        (b"[" + b"0," * 200_000 + b"0]", "canvas_too_large"),
        (b"[]", "invalid_json"),
        (b"{", "invalid_json"),
        (b"", "invalid_json"),
        (b'{"a": NaN}', "invalid_json"),
        (b'{"a": -Infinity}', "invalid_json"),
        (b'{"a": ' + b"9" * 5000 + b"}", "invalid_json"),
        (b'{"a": "\xff"}', "invalid_json"),
    ],
)
def test_hostile_bytes_are_refused_as_a_whole(text: bytes, code: str) -> None:
    (fault,) = validate(text).errors
    assert fault.code == code
    assert fault.pointer == ""
    with pytest.raises(TapelineError) as caught:
        validate(text).require()
    assert caught.value.code in CODES


def test_brackets_inside_texts_are_no_depth() -> None:
    canvas = good() | {"notes": '[[[["\\' * 500}
    assert validate(json.dumps(canvas), feature_shapes=FEATURES, labels=LABELS).ok


def test_parsed_values_that_are_deep_wide_or_endless_are_refused() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    endless: dict[str, Any] = {}
    endless["a"] = endless
    wide: Any = []
    for _ in range(30):
        wide = [wide] * 20
    assert validate({"a": deep}).errors[0].code == "canvas_too_deep"
    assert validate(endless).errors[0].code == "canvas_too_deep"
    assert validate({"a": wide}).errors[0].code == "canvas_too_large"
    assert validate({"a": object()}).errors[0].code == "invalid_json"
    while deep:  # taken apart by hand: freeing it at once would recurse
        deep = deep.pop()


def test_too_many_nodes_and_edges_are_refused() -> None:
    nodes = [{"id": f"n{i}", "kind": "flatten", "inputs": ["n0"]} for i in range(513)]
    assert [f.code for f in validate({"schema": "tapeline.canvas/1", "nodes": nodes}).errors] == ["too_many_nodes"]
    named = [{"id": f"n{i}", "kind": "input", "features": ["f"] * 64} for i in range(65)]
    assert [f.code for f in validate({"schema": "tapeline.canvas/1", "nodes": named}).errors] == ["too_many_features"]
    many = good()
    many["nodes"] = [good()["nodes"][0]] + [{"id": f"a{i}", "kind": "add", "inputs": ["in1"] * 64} for i in range(40)]
    assert "too_many_edges" in [f.code for f in validate(many).errors]


def test_of_a_flood_of_faults_the_first_are_looked_at() -> None:
    wrong = [{"id": f"n{i}", "kind": "dense", "inputs": ["n0"], "units": ["x"] * 60} for i in range(200)]
    shown = excerpt({"schema": "tapeline.canvas/1", "nodes": wrong})["nodes"]
    assert 2 <= len(shown) < 10
    assert shown == wrong[: len(shown)]
    assert len(validate({"schema": "tapeline.canvas/1", "nodes": wrong}).errors) == 100
    long = {"id": "d", "kind": "dense", "inputs": ["a"] * 10_000, "units": 0} | {f"field{i}": 1 for i in range(5000)}
    cut = excerpt({"schema": "tapeline.canvas/1", "nodes": [long]})["nodes"][0]
    assert (len(cut), len(cut["inputs"]), cut["units"]) == (105, 65, 0)


def test_a_list_that_is_too_long_is_told_with_its_length() -> None:
    canvas = good()
    canvas["nodes"][3]["units"] = [8] * 5000
    canvas["nodes"][2]["inputs"] = ["in1"] * 1000
    found = {fault.pointer: fault.message for fault in validate(canvas).errors}
    assert found["/nodes/3/units"] == "units has 5000 entries, needs at most 64"
    assert found["/nodes/2/inputs"] == "inputs has 1000 entries, needs at most 1"


def test_a_list_with_a_wrong_entry_is_told_at_the_entry_alone() -> None:
    canvas = good()
    canvas["nodes"][3]["units"] = [8, 0, "x"]
    found = [(fault.pointer, fault.code) for fault in validate(canvas).errors]
    assert found == [("/nodes/3/units/1", "greater_than"), ("/nodes/3/units/2", "int_type")]


def test_a_near_name_is_found_among_hundreds_that_are_alike() -> None:
    ids = [f"{'a' * 40}{i}" for i in range(400)]
    nodes: list[dict[str, Any]] = [{"id": each, "kind": "input", "features": ["ret"]} for each in ids]
    nodes += [{"id": "z", "kind": "output", "inputs": ["a" * 40 + "x371"], "feature": "updown"}]
    canvas = {"schema": "tapeline.canvas/1", "nodes": nodes}
    fault = next(fault for fault in validate(canvas).errors if fault.code == "unknown_node")
    assert f"'{'a' * 40}371'" in str(fault.hint)


def test_hostile_canvases_are_refused_in_little_memory() -> None:
    program = """
import resource
from tapeline.canvas import validate
nodes = [{"id": "i", "kind": "input", "features": ["w"]},
         {"id": "d", "kind": "dense", "inputs": ["i"], "units": 1000000000},
         {"id": "o", "kind": "output", "inputs": ["d"], "feature": "l"}]
validate({"schema": "tapeline.canvas/1", "nodes": nodes[:1]}, feature_shapes={"w": (10,)})
million = {"schema": "tapeline.canvas/1", "nodes": [{}] * 1000000}
text = '{"schema":"tapeline.canvas/1","nodes":[' + "{}," * 1000000 + "{}]}"
deep = ["[" * 100000, '{"a":' * 100000]
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
for each in ({"schema": "tapeline.canvas/1", "nodes": nodes}, million, text, *deep):
    assert validate(each, feature_shapes={"w": (10,)}).errors
nodes[1]["units"] = [65536] * 64
assert validate({"schema": "tapeline.canvas/1", "nodes": nodes}, feature_shapes={"w": (10,)}).errors
print(peak() - before)
"""
    run = subprocess.run([sys.executable, "-c", program], check=True, timeout=60, capture_output=True, text=True)
    assert int(run.stdout) < 50 * 1024  # KiB


def test_hostile_canvases_never_import_keras() -> None:
    program = """
import sys
from tapeline.canvas import get_available_components, validate
nodes = [{"id": "i", "kind": "input", "features": ["w"]},
         {"id": "d", "kind": "dense", "inputs": ["i"], "units": 1000000000},
         {"id": "o", "kind": "output", "inputs": ["d"], "feature": "l"}]
validate({"schema": "tapeline.canvas/1", "nodes": nodes}, feature_shapes={"w": (10,)})
nodes[1]["units"] = [65536] * 64
assert validate({"schema": "tapeline.canvas/1", "nodes": nodes}, feature_shapes={"w": (10,)}).errors
validate("[" * 100000)
validate('{"schema":"tapeline.canvas/1","nodes":[' + "{}," * 100000 + "{}]}")
get_available_components()
heavy = [name for name in sys.modules if name.split(".")[0] in ("keras", "tensorflow", "numpy", "h5py")]
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_canvas_can_be_checked_without_an_asset() -> None:
    validation = validate(good())
    assert validation.ok
    assert validation.shapes == {}
    assert validation.parameters is None
    assert isinstance(validation.canvas, Canvas)


def test_an_activation_that_gives_no_probability_is_a_warning() -> None:
    canvas = good()
    put("/nodes/4/activation", "tanh")(canvas)
    validation = validate(canvas, feature_shapes=FEATURES, labels=LABELS)
    assert validation.ok
    assert [fault.code for fault in validation.warnings] == ["unusual_activation"]


def test_the_reply_is_plain_json() -> None:
    reply = validate(good(), feature_shapes=FEATURES, labels=LABELS).to_json()
    assert json.loads(json.dumps(reply)) == reply
    assert set(reply) == {"ok", "errors", "warnings", "shapes", "parameters", "digest"}
