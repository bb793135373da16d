"""The order in which a model's floating tensors become one vector: names sorted, each row-major."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from chainfl.encoding.arrays import AnyArray, Float32Array, require_vector
from chainfl.encoding.hostile_json import decode_json
from chainfl.errors import EncodingError

DTYPES = ("float16", "float32", "float64")
MAX_TENSORS = 65_536
MAX_NAME_LENGTH = 512
MAX_DIMENSIONS = 16
MAX_JSON_BYTES = 1 << 24
MAX_PARAMS = 1 << 33
"""Below 2^34 no sum of squares of an update reaches 2^64, so sums of an honest tree never overflow."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A floating tensor of a model. dtype: what `unflatten` gives back; on the wire all are integers."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """The number of values; 1 for a scalar."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """The floating tensors of a model, by name in sorted order. Raises EncodingError when made otherwise."""

    tensors: tuple[TensorSpec, ...]

    def __post_init__(self) -> None:
        if not 0 < len(self.tensors) <= MAX_TENSORS:
            raise EncodingError(f"a layout has 1 to {MAX_TENSORS} tensors", num_tensors=len(self.tensors))
        for spec in self.tensors:
            _check_spec(spec)
        names = [spec.name for spec in self.tensors]
        if any(left >= right for left, right in pairwise(names)):
            raise EncodingError("the tensors of a layout are not sorted by name, each once")
        if self.num_params > MAX_PARAMS:
            raise EncodingError(f"a layout has at most {MAX_PARAMS} values", num_params=self.num_params)

    @classmethod
    def of(cls, tensors: Mapping[str, AnyArray]) -> Layout:
        """The layout of these arrays; integer and boolean buffers stay out.

        A tensor tied to another appears once, under its first name: leave the others out before calling.
        """
        specs = (
            TensorSpec(name, tuple(tensors[name].shape), str(tensors[name].dtype))
            for name in sorted(tensors)
            if tensors[name].dtype.kind not in "biu"
        )
        return cls(tuple(specs))

    @cached_property
    def num_params(self) -> int:
        """P, the length of the flat vector."""
        return sum(spec.size for spec in self.tensors)

    def hash(self) -> bytes:
        """32 bytes: sha256 over the canonical JSON of names and shapes, without dtypes."""
        entries = [[spec.name, list(spec.shape)] for spec in self.tensors]
        return hashlib.sha256(_canonical(entries).encode()).digest()

    def flatten(self, tensors: Mapping[str, AnyArray]) -> Float32Array:
        """One float32[P] of these arrays; integer buffers among them stay out.

        Raises EncodingError for a tensor that is missing, of another shape, or not in the layout.
        """
        floating = {name for name, values in tensors.items() if values.dtype.kind not in "biu"}
        if floating != {spec.name for spec in self.tensors}:
            differing = sorted(floating.symmetric_difference(spec.name for spec in self.tensors))
            raise EncodingError(f"tensors do not match the layout: {', '.join(differing[:5])}", names=differing)
        vector = np.empty(self.num_params, np.float32)
        for spec, place in self._places():
            values = tensors[spec.name]
            if tuple(values.shape) != spec.shape:
                raise EncodingError(f"{spec.name} has shape {tuple(values.shape)}, not {spec.shape}")
            vector[place] = values.reshape(-1)
        return vector

    def unflatten(self, vector: Float32Array) -> dict[str, AnyArray]:
        """The named arrays of a float32[P]; a float32 tensor is a view of `vector`, others are copies."""
        require_vector(vector, np.float32, "vector")
        if vector.size != self.num_params:
            raise EncodingError(f"the vector has {vector.size} values, the layout {self.num_params}")
        return {
            spec.name: vector[place].reshape(spec.shape).astype(spec.dtype, copy=False)
            for spec, place in self._places()
        }

    def to_json(self) -> str:
        """Canonical JSON, the inverse of `from_json`."""
        return _canonical([{"dtype": s.dtype, "name": s.name, "shape": list(s.shape)} for s in self.tensors])

    @classmethod
    def from_json(cls, text: str | bytes) -> Layout:
        """The layout that a stranger wrote. Raises EncodingError unless it is a well-formed one."""
        try:
            entries = decode_json(text, max_bytes=MAX_JSON_BYTES)
        except ValueError as error:
            raise EncodingError(f"the layout is not JSON: {error}") from error
        if not isinstance(entries, list) or len(entries) > MAX_TENSORS:
            raise EncodingError(f"the layout is not a list of at most {MAX_TENSORS} tensors")
        return cls(tuple(_spec_of(entry) for entry in entries))

    def _places(self) -> Iterator[tuple[TensorSpec, slice]]:
        start = 0
        for spec in self.tensors:
            yield spec, slice(start, start + spec.size)
            start += spec.size


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _spec_of(entry: object) -> TensorSpec:
    if not isinstance(entry, dict) or set(entry) != {"name", "shape", "dtype"}:
        raise EncodingError("a tensor of a layout has the fields name, shape and dtype")
    if not isinstance(entry["shape"], list):
        raise EncodingError("the shape of a tensor is not a list")
    return TensorSpec(entry["name"], tuple(entry["shape"]), entry["dtype"])


def _check_spec(spec: TensorSpec) -> None:
    if not isinstance(spec.name, str) or not 0 < len(spec.name) <= MAX_NAME_LENGTH or spec.name == "__metadata__":
        raise EncodingError(f"a tensor's name has 1 to {MAX_NAME_LENGTH} characters and is not reserved")
    if not spec.name.isprintable():
        raise EncodingError(f"the tensor name {spec.name!r} has characters that do not print")
    if spec.dtype not in DTYPES:
        raise EncodingError(f"{spec.name} is {spec.dtype}, not one of {', '.join(DTYPES)}", dtype=str(spec.dtype))
    if len(spec.shape) > MAX_DIMENSIONS or not all(type(n) is int and 0 < n <= MAX_PARAMS for n in spec.shape):
        raise EncodingError(f"{spec.name} has an impossible shape", shape=spec.shape)
