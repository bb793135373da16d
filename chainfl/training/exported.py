"""Programs that a task brings along: a `torch.export` archive (.pt2), read without `torch.export.load`.

torch's own loader must not see a stranger's file. In torch 2.15 it unpickles the sample inputs (`weights_only=True`,
and when that fails, again with `weights_only=False`), unpickles weights and constants that are marked `use_pickle`,
and custom objects; it evaluates shape expressions with `sympify`, imports modules that tree specifications name, and
makes Python source of the graph and its `guards_code`. So an archive is read here as what it is, data: a zip of raw
tensors and a JSON graph. Only the raw tensors and the graph's nodes are looked at, a node must be one of the ATen
operators below, and the module that comes out interprets them one by one. The archive's other members stay unread.
"""

from __future__ import annotations

import json
import math
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from chainfl.errors import TrainingError

MAX_ARCHIVE_BYTES = 4 << 30
MAX_GRAPH_BYTES = 32 << 20
MAX_MEMBERS = 20_000
MAX_NODES = 20_000
SCHEMA_MAJOR = 8

# Operators that only compute on their arguments: no files, no strings that are run, no random state but dropout's.
_OPERATOR_NAMES = """
adaptive_avg_pool1d.default adaptive_avg_pool2d.default add.Tensor add_.Tensor addmm.default avg_pool1d.default
avg_pool2d.default batch_norm.default bmm.default cat.default chunk.default clamp.default clone.default
contiguous.default conv1d.default conv1d.padding conv2d.default conv2d.padding div.Tensor dropout.default
dropout_.default elu.default embedding.default exp.default expand.default flatten.using_ints gelu.default
group_norm.default hardsigmoid.default hardswish.default hardtanh.default layer_norm.default leaky_relu.default
linear.default log_softmax.int matmul.default max_pool1d.default max_pool2d.default mean.default mean.dim mm.default
mul.Tensor neg.default permute.default pow.Tensor_Scalar relu.default relu_.default reshape.default rsqrt.default
scaled_dot_product_attention.default select.int sigmoid.default silu.default slice.Tensor softmax.int split.Tensor
sqrt.default squeeze.dim sub.Tensor sum.dim_IntList sym_size.int t.default tanh.default transpose.int unbind.int
unsqueeze.default view.default
"""
OPERATORS = frozenset(_OPERATOR_NAMES.split())

# What the archive's schema calls a type, of those that a model here may have.
_DTYPES = {4: torch.int32, 5: torch.int64, 7: torch.float32, 8: torch.float64, 12: torch.bool}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}(\.[A-Za-z0-9_]{1,128}){0,32}")
# The graph records whether it was exported in training mode; here the module's own mode decides.
_MODE_ARGUMENTS = {"batch_norm.default": "training", "dropout.default": "train", "dropout_.default": "train"}

Resolve = Callable[[Mapping[str, Any], bool], Any]


def load_exported(path: Path) -> nn.Module:
    """The module in an archive written by `torch.export.save`, with the weights that it carries.

    It maps one tensor to one tensor, keeps the names of its parameters and buffers, and follows `train()` and
    `eval()`. Raises TrainingError, before anything of the archive is used, for an archive that is damaged, needs
    pickle, or uses an operator that is not in OPERATORS; and from `forward`, when an operator fails.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _module(_Archive(archive, path.name))
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        raise TrainingError(f"{path.name} is not a torch.export archive ({error})") from error
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError, RuntimeError) as error:
        # The graph is nested data from a stranger: whatever does not have the expected form ends here.
        raise TrainingError(f"{path.name} is not a well-formed torch.export archive ({error!r})") from error


class ExportedModule(nn.Module):
    """Interprets the nodes of an exported graph, in order."""

    def __init__(self, graph: _Graph) -> None:
        super().__init__()
        self._graph = graph
        self._state_places = tuple(graph.state.items())

    def forward(self, features: Tensor) -> Tensor:
        """features: (n, ...). Raises TrainingError when an operator refuses its arguments."""
        values: dict[str, Any] = {name: _find(self, target) for name, target in self._state_places}
        # An operator that works in place must not reach the caller's data set, of which a batch may be a view.
        values[self._graph.input] = features.clone() if self._graph.is_in_place else features
        for node in self._graph.nodes:
            node.run(values, self.training)
        output = values[self._graph.output]
        if not isinstance(output, Tensor):
            raise TrainingError("the exported program's output is not a tensor")
        return output


# --- the archive ---------------------------------------------------------------------------------


class _Archive:
    """The members of an archive below its one folder, stored plainly (so no size can be larger than the file)."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        members = archive.infolist()
        if len(members) > MAX_MEMBERS or sum(member.file_size for member in members) > MAX_ARCHIVE_BYTES:
            raise TrainingError(f"{name} is larger than {MAX_ARCHIVE_BYTES} bytes or {MAX_MEMBERS} members")
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise TrainingError(f"{name} has compressed members; torch.export.save writes none")
        self._archive = archive
        self._members = {member.filename.partition("/")[2]: member for member in members}
        if len(self._members) != len(members):
            raise TrainingError(f"{name} has a member twice")
        if self._archive.read(self._members["byteorder"]) != b"little":
            raise TrainingError(f"{name} is not little-endian")

    def read(self, member: str) -> bytes:
        return self._archive.read(self._members[member])

    def json(self, member: str) -> Any:
        if self._members[member].file_size > MAX_GRAPH_BYTES:
            raise TrainingError(f"{member} is larger than {MAX_GRAPH_BYTES} bytes")
        return json.loads(self.read(member))


def _module(archive: _Archive) -> ExportedModule:
    program = archive.json("models/model.json")
    version = program["schema_version"]["major"]
    if version != SCHEMA_MAJOR:
        raise TrainingError(f"the archive has schema {version}, this version reads {SCHEMA_MAJOR}")
    signature, parsed = program["graph_module"]["signature"], program["graph_module"]["graph"]
    state, user_input = _inputs(signature["input_specs"])
    nodes = tuple(_node(entry) for entry in _limited(parsed["nodes"]))
    graph = _Graph(nodes, state, user_input, _output(signature["output_specs"]))
    graph.check_order()
    module = ExportedModule(graph)
    tensors = _tensors(archive, "weights") | _tensors(archive, "constants")
    parameters = _parameters(signature["input_specs"], tensors)
    persistent = {spec["buffer"]["buffer_name"] for spec in signature["input_specs"] if _is_persistent(spec)}
    for target in state.values():
        _place(module, target, parameters.get(target, tensors[target]), persistent=target in persistent)
    return module


def _limited(nodes: list[Any]) -> list[Any]:
    if len(nodes) > MAX_NODES:
        raise TrainingError(f"the graph has {len(nodes)} nodes, more than {MAX_NODES}")
    return nodes


def _tensors(archive: _Archive, folder: str) -> dict[str, Tensor]:
    """Raw tensors by name; tied ones are one and the same object."""
    found: dict[str, Tensor] = {}
    shared: dict[tuple[str, int, tuple[int, ...], tuple[int, ...]], Tensor] = {}
    for name, payload in archive.json(f"data/{folder}/model_{folder}_config.json")["config"].items():
        if payload["use_pickle"] or payload["tensor_meta"] is None:
            raise TrainingError(f"{name} is pickled; nothing from a stranger is unpickled", name=name)
        meta = payload["tensor_meta"]
        sizes, strides = _ints(meta["sizes"]), _ints(meta["strides"])
        offset = meta["storage_offset"]["as_int"]
        key = (payload["path_name"], offset, sizes, strides)
        if key not in shared:
            raw = archive.read(f"data/{folder}/{payload['path_name']}")
            shared[key] = _raw_tensor(name, raw, _DTYPES[meta["dtype"]], sizes, strides, offset)
        found[name] = shared[key]
    return found


def _raw_tensor(
    name: str, raw: bytes, dtype: torch.dtype, sizes: tuple[int, ...], strides: tuple[int, ...], offset: int
) -> Tensor:
    storage = torch.frombuffer(bytearray(raw), dtype=dtype) if raw else torch.empty(0, dtype=dtype)
    in_order = tuple(math.prod(sizes[place + 1 :]) for place in range(len(sizes)))
    # Strides of a stranger could reach outside of the storage, or name one value a million times.
    if min((*sizes, 1)) < 1 or strides != in_order or offset < 0 or offset + math.prod(sizes) > len(storage):
        raise TrainingError(f"{name} is not stored row by row within its file", name=name, sizes=sizes, strides=strides)
    return storage[offset : offset + math.prod(sizes)].reshape(sizes).clone()


def _ints(values: list[Any]) -> tuple[int, ...]:
    found = tuple(value["as_int"] for value in values)
    if not all(type(value) is int for value in found):
        raise TrainingError("a weight's shape is not fixed")
    return found


def _parameters(specs: list[Any], tensors: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
    """Parameters by name, one and the same object for all the names of a tied tensor."""
    made: dict[int, nn.Parameter] = {}
    names = [entry["parameter"]["parameter_name"] for entry in specs if "parameter" in entry]
    for name in names:
        if not tensors[name].is_floating_point():
            raise TrainingError(f"the parameter {name} is not floating", name=name)
        made.setdefault(id(tensors[name]), nn.Parameter(tensors[name]))
    return {name: made[id(tensors[name])] for name in names}


def _is_persistent(spec: Mapping[str, Any]) -> bool:
    """Whether it is a buffer that belongs to the state; other buffers and constants do not."""
    return "buffer" in spec and spec["buffer"]["persistent"] is True


def _place(module: nn.Module, target: str, tensor: Tensor, *, persistent: bool) -> None:
    """Puts a parameter or buffer where its dotted name says, so that the state has the exporter's own names."""
    *folders, name = target.split(".")
    for folder in folders:
        if folder not in dict(module.named_children()):
            module.add_module(folder, nn.Module())  # refuses a name that is already an attribute
        module = module.get_submodule(folder)
    if isinstance(tensor, nn.Parameter):
        module.register_parameter(name, tensor)
    else:
        module.register_buffer(name, tensor, persistent=persistent)


def _find(module: nn.Module, target: str) -> Tensor:
    path, _, name = target.rpartition(".")
    tensor: Tensor = getattr(module.get_submodule(path), name)
    return tensor


# --- the graph -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Node:
    """One operator call. positional, keyword: how to find each argument among the values so far."""

    operator: str
    function: Callable[..., Any]
    positional: tuple[Resolve, ...]
    keyword: Mapping[str, Resolve]
    needs: frozenset[str]
    outputs: tuple[str, ...]
    is_list: bool

    def run(self, values: dict[str, Any], training: bool) -> None:
        arguments = [resolve(values, training) for resolve in self.positional]
        named = {name: resolve(values, training) for name, resolve in self.keyword.items()}
        try:
            result = self.function(*arguments, **named)
        except (RuntimeError, TypeError, IndexError, ValueError) as error:
            raise TrainingError(f"aten.{self.operator} failed in the exported program: {error}") from error
        if not self.is_list:
            values[self.outputs[0]] = result
        elif len(result) != len(self.outputs):
            raise TrainingError(f"aten.{self.operator} gave {len(result)} tensors, the graph names {len(self.outputs)}")
        else:
            values.update(zip(self.outputs, result, strict=True))


@dataclass(frozen=True, slots=True)
class _Graph:
    """nodes in order; state: from the graph's names to those of parameters and buffers."""

    nodes: tuple[_Node, ...]
    state: Mapping[str, str]
    input: str
    output: str

    @property
    def is_in_place(self) -> bool:
        """Whether any operator changes its argument (ATen's names for those end in an underscore)."""
        return any(node.operator.partition(".")[0].endswith("_") for node in self.nodes)

    def check_order(self) -> None:
        """Raises TrainingError unless every value is there before it is used."""
        known = {*self.state, self.input}
        for node in self.nodes:
            if missing := node.needs - known:
                raise TrainingError(f"aten.{node.operator} uses {', '.join(sorted(missing))} before it exists")
            known.update(node.outputs)
        if self.output not in known:
            raise TrainingError(f"the graph's output {self.output} does not exist")


def _inputs(specs: list[Any]) -> tuple[dict[str, str], str]:
    """From the graph's input names to state names, and the name of the one user input."""
    state: dict[str, str] = {}
    user_inputs: list[str] = []
    for entry in specs:
        ((kind, spec),) = entry.items()
        if kind == "user_input":
            user_inputs.append(spec["arg"]["as_tensor"]["name"])
        elif kind in ("parameter", "buffer", "tensor_constant"):
            state[spec["arg"]["name"]] = _checked_name(spec[f"{kind}_name"])
        else:
            raise TrainingError(f"the exported program takes a {kind}, which is not supported")
    if len(user_inputs) != 1:
        raise TrainingError(f"the exported program takes {len(user_inputs)} inputs; a model here takes one tensor")
    return state, user_inputs[0]


def _output(specs: list[Any]) -> str:
    if len(specs) != 1 or set(specs[0]) != {"user_output"}:
        kinds = ", ".join(sorted({kind for entry in specs for kind in entry}))
        raise TrainingError(
            f"the exported program gives {kinds}; a model here gives one tensor. Export it with torch.export.export "
            "alone, without run_decompositions"
        )
    name: str = specs[0]["user_output"]["arg"]["as_tensor"]["name"]
    return name


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise TrainingError(f"{name[:80]!r} is not a parameter's name")
    return name


def _node(entry: Mapping[str, Any]) -> _Node:
    target: str = entry["target"]
    operator = target.removeprefix("torch.ops.aten.")
    if operator == target or operator not in OPERATORS:
        raise TrainingError(f"the exported program uses {target[:80]}, which is not among the operators allowed here")
    packet, _, overload = operator.partition(".")
    positional: list[Resolve] = []
    keyword: dict[str, Resolve] = {}
    needs: set[str] = set()
    for argument in entry["inputs"]:
        resolve = _argument(argument["arg"], needs)
        if argument["name"] == _MODE_ARGUMENTS.get(operator):
            resolve = _training_mode
        if argument["kind"] == 2:
            keyword[argument["name"]] = resolve
        else:
            positional.append(resolve)
    outputs, is_list = _node_outputs(entry["outputs"])
    function = getattr(getattr(torch.ops.aten, packet), overload)
    return _Node(operator, function, tuple(positional), keyword, frozenset(needs), outputs, is_list)


def _node_outputs(outputs: list[Any]) -> tuple[tuple[str, ...], bool]:
    (output,) = outputs
    ((kind, value),) = output.items()
    if kind == "as_tensor":
        return (value["name"],), False
    if kind == "as_sym_int":
        return (value["as_name"],), False
    if kind == "as_tensors":
        return tuple(tensor["name"] for tensor in value), True
    raise TrainingError(f"the exported program has a node that gives {kind}")


def _training_mode(_values: Mapping[str, Any], training: bool) -> bool:
    return training


def _argument(argument: Mapping[str, Any], needs: set[str]) -> Resolve:
    """How to find an argument: a constant, or values by their names, which are noted in `needs`."""
    ((kind, value),) = argument.items()
    if kind in _CONSTANTS:
        return _constant(_CONSTANTS[kind](value))
    if kind in ("as_tensor", "as_optional_tensor", "as_sym_int"):
        return _single(value, needs)
    if kind in ("as_tensors", "as_optional_tensors", "as_sym_ints"):
        return _several([_single(item, needs) for item in value])
    raise TrainingError(f"the exported program has an argument of kind {kind}, which is not supported")


def _single(value: Mapping[str, Any], needs: set[str]) -> Resolve:
    if "as_tensor" in value:  # a present optional tensor
        value = value["as_tensor"]
    if set(value) == {"as_none"}:
        return _constant(None)
    if set(value) == {"as_int"}:
        return _constant(_checked(int)(value["as_int"]))
    name: str = value["as_name"] if "as_name" in value else value["name"]
    needs.add(name)
    return lambda values, _: values[name]


def _several(items: Sequence[Resolve]) -> Resolve:
    return lambda values, training: [item(values, training) for item in items]


def _constant(value: Any) -> Resolve:
    return lambda _values, _training: value


def _checked(*types: type) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if type(value) not in types:
            raise TypeError(f"{value!r:.40} is not {' or '.join(kind.__name__ for kind in types)}")
        return value

    return check


def _checked_list(*types: type) -> Callable[[Any], Any]:
    check = _checked(*types)
    return lambda values: [check(value) for value in values]


_CONSTANTS: Mapping[str, Callable[[Any], Any]] = {
    "as_none": lambda _: None,
    "as_bool": _checked(bool),
    "as_int": _checked(int),
    # JSON has no infinity; the archive writes it as text.
    "as_float": lambda value: float(_checked(float, int, str)(value)),
    "as_string": _checked(str),
    "as_ints": _checked_list(int),
    "as_floats": _checked_list(float, int),
    "as_bools": _checked_list(bool),
}
