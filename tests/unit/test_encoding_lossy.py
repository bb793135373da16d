"""Lossy forms: what they leave of an update, how it travels, and what of a stranger's bytes is refused."""

from __future__ import annotations

import io
import tracemalloc
import zlib
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chainfl.encoding.compression import compress_values, inflate_values, max_compressed_bytes
from chainfl.encoding.lossy import loss_bound, lossy_values
from chainfl.encoding.packing import BLOCKS, GROUP_VALUES, most_kept
from chainfl.encoding.payload import UpdateMetadata, max_update_bytes, open_update, read_update, write_update
from chainfl.errors import EncodingError, PayloadError, PayloadFormMismatch, PayloadTooLarge, PayloadTruncated
from chainfl.types import PLAIN, Address, Compression, Root, TaskId

BINDING = UpdateMetadata(TaskId(7), 3, Address("0x" + "ab" * 20), Root(bytes(32)), 31337, Address("0x" + "cd" * 20))
INT8, INT4, TENTH = Compression("int8"), Compression("int4"), Compression("topk", Fraction(1, 10))
FORMS = [INT8, INT4, TENTH, Compression("topk", Fraction(1, 1000)), Compression("topk", Fraction(1))]
IDS = ["int8", "int4", "tenth", "thousandth", "all"]
any_form = st.sampled_from(FORMS)
any_values = st.lists(st.integers(-32_767, 32_767) | st.integers(-9, 9) | st.just(0), min_size=1, max_size=600)


def like_an_update(count: int) -> np.ndarray:
    return np.clip(np.random.default_rng(0).normal(0, 80, count).round(), -32_767, 32_767).astype(np.int16)


def compressed(values, form) -> bytes:
    return b"".join(compress_values(values, form))


def inflated(data: bytes, count: int, form: Compression) -> np.ndarray:
    return np.concatenate(list(inflate_values(io.BytesIO(data), len(data), count, form)))


def payload(values, form) -> bytes:
    target = io.BytesIO()
    assert write_update(target, values, BINDING, form) == len(target.getvalue())
    return target.getvalue()


def energy(values) -> int:
    return sum(int(value) ** 2 for value in values)


def rounded_slowly(values: list[int], bits: int, size: int) -> list[int]:
    """Each block by exact fractions."""
    found = []
    for start in range(0, len(values), size):
        block, limit = values[start : start + size], 2 ** (bits - 1) - 1
        step = 2 ** max(0, max(map(abs, block)).bit_length() - (bits - 1))
        found += [step * max(-limit, min(limit, round(Fraction(value, step)))) for value in block]
    return found


@given(any_values, st.sampled_from([INT8, INT4]))
def test_lossy__blocks__are_as_exact_fractions_round_them(listed, form):
    blocks = BLOCKS[form.name]
    found = lossy_values(np.array(listed, np.int16), form)
    assert found.tolist() == rounded_slowly(listed, blocks.bits, blocks.size)


@given(any_values, st.sampled_from(FORMS[2:]))
def test_lossy__topk__keeps_the_largest_and_of_equals_the_first(listed, form):
    count = most_kept(form, len(listed))
    largest = sorted(range(len(listed)), key=lambda i: (-abs(listed[i]), i))[:count]
    kept = [value if i in set(largest) else 0 for i, value in enumerate(listed)]
    assert lossy_values(np.array(listed, np.int16), form).tolist() == rounded_slowly(kept, 8, 1 << 14)


@given(any_values, any_form)
def test_lossy__any_values__lose_no_more_than_the_bound_on_residuals_assumes(listed, form):
    lost = np.array(listed, np.int64) - lossy_values(np.array(listed, np.int16), form)
    assert energy(lost) <= (1 - 2 / loss_bound(form)) * energy(listed)


@given(any_values, any_form)
def test_lossy__twice__is_once_and_at_most_doubles_a_value(listed, form):
    values = np.array(listed, np.int16)
    once = lossy_values(values, form)
    assert np.array_equal(lossy_values(once, form), once)
    assert np.all(np.abs(once.astype(int)) <= 2 * np.abs(values.astype(int)))
    assert np.all(once.astype(int) * values >= 0)


def test_lossy__negated__is_negated():
    values = like_an_update(10_000)
    for form in (INT8, INT4):
        assert np.array_equal(lossy_values(-values, form), -lossy_values(values, form))


@pytest.mark.parametrize("form", [PLAIN, Compression("deflate")], ids=["none", "deflate"])
def test_lossy__form_that_loses_nothing__the_very_values(form):
    values = like_an_update(10)
    assert lossy_values(values, form) is values
    assert loss_bound(form) == 1


@pytest.mark.parametrize(("count", "kept"), [(1, 1), (9, 1), (10, 1), (11, 2), (20, 2), (21, 3)])
def test_most_kept__share__is_rounded_up(count, kept):
    assert most_kept(TENTH, count) == kept


@given(any_values, any_form)
def test_inflate__what_the_form_leaves__the_same_values(listed, form):
    values = lossy_values(np.array(listed, np.int16), form)
    data = compressed(values, form)
    assert len(data) <= max_compressed_bytes(form, values.size)
    assert np.array_equal(inflated(data, values.size, form), values)
    assert compressed(values, form) == data


@pytest.mark.parametrize("form", FORMS[:3], ids=IDS[:3])
@pytest.mark.parametrize("count", [GROUP_VALUES - 1, GROUP_VALUES, GROUP_VALUES + 1, 2 * GROUP_VALUES])
def test_inflate__around_a_group__the_same_values(count, form):
    values = lossy_values(like_an_update(count), form)
    assert np.array_equal(inflated(compressed(values, form), count, form), values)


def test_inflate__values_far_apart__the_same():
    values = np.zeros(GROUP_VALUES, np.int16)
    values[[0, 128, 257, 20_000, GROUP_VALUES - 1]] = [1, -1, 2, -127, 127]
    assert np.array_equal(inflated(compressed(values, TENTH), values.size, TENTH), values)


@pytest.mark.parametrize("form", FORMS, ids=IDS)
def test_compress__worst_case__stays_within_the_stated_size(form):
    values = np.random.default_rng(0).integers(-32_767, 32_768, 100_000).astype(np.int16)
    values = lossy_values(values, form)
    assert len(compressed(values, form)) <= max_compressed_bytes(form, values.size)
    assert max_compressed_bytes(form, 10**9) < 5 * 10**9


@pytest.mark.parametrize("form", FORMS[:4], ids=IDS[:4])
def test_write_update__values_that_the_form_cannot_hold__refused(form):
    with pytest.raises(EncodingError):
        payload(np.arange(1, 2_001, dtype=np.int16), form)


@pytest.mark.parametrize("form", FORMS, ids=IDS)
def test_read_update__as_bytes_and_as_file__the_same_values(tmp_path, form):
    values = lossy_values(like_an_update(1_000), form)
    data = payload(values, form)
    assert len(data) <= max_update_bytes(values.size, form)
    read = read_update(data, num_params=values.size, expected=BINDING, compression=form)
    assert read.dtype == np.int16
    assert np.array_equal(read, values)
    (tmp_path / "update").write_bytes(data)
    with (tmp_path / "update").open("rb") as file:
        source = open_update(file, num_params=values.size, expected=BINDING, compression=form)
    assert np.array_equal(source.read(0, values.size), values)


@pytest.mark.parametrize("told", [PLAIN, Compression("deflate"), INT8, INT4, TENTH], ids=lambda form: form.name)
@pytest.mark.parametrize("written", [PLAIN, Compression("deflate"), INT8, INT4, TENTH], ids=lambda form: form.name)
def test_read_update__another_form_than_the_tasks__its_own_error(told, written):
    data = payload(np.zeros(40, np.int16), written)
    if told == written:
        assert not read_update(data, num_params=40, expected=BINDING, compression=told).any()
        return
    with pytest.raises(PayloadFormMismatch):
        read_update(data, num_params=40, expected=BINDING, compression=told)


def packed(*parts: object) -> bytes:
    """A zlib stream over bytes, and integers as uint32."""
    raw = b"".join(part.to_bytes(4, "little") if isinstance(part, int) else bytes(part) for part in parts)  # type: ignore[call-overload]
    return zlib.compress(raw)


def sparse(gaps, codes, *, shift=0, kept=None, num_bytes=None) -> bytes:
    """A packing of topk for 100 values, of which ten may be there."""
    kept, num_bytes = len(codes) if kept is None else kept, len(gaps) if num_bytes is None else num_bytes
    return packed(kept, num_bytes, gaps, [shift], [code & 255 for code in codes])


MALFORMED = {
    # 100 values: one block of int8, two of int4
    "int8 shift": (INT8, packed([15], [1] + [0] * 99), PayloadError),
    "int8 huge shift": (INT8, packed([255], [1] + [0] * 99), PayloadError),
    "int8 even codes": (INT8, packed([1], [2] * 100), PayloadError),
    "int8 zeros with a shift": (INT8, packed([1], [0] * 100), PayloadError),
    "int8 code of -128": (INT8, packed([0], [128] * 100), PayloadError),
    "int8 beyond int16": (INT8, packed([9], [127] * 100), PayloadError),
    "int8 -32768": (INT8, packed([14], [254, 1] + [0] * 98), PayloadError),
    "int8 few": (INT8, packed([0], [1] * 99), PayloadTruncated),
    "int8 many": (INT8, packed([0], [1] * 101), PayloadTooLarge),
    "int8 behind": (INT8, packed([0], [1] * 100) + b"x", PayloadTooLarge),
    "int8 noise": (INT8, b"not zlib", PayloadError),
    "int8 nothing": (INT8, b"", PayloadTruncated),
    "int4 code of -8": (INT4, packed([0, 0], [8] * 50), PayloadError),
    "int4 beyond int16": (INT4, packed([13, 0], [5] * 50), PayloadError),
    "int4 even codes": (INT4, packed([0, 1], [0x22] * 50), PayloadError),
    "int4 few": (INT4, packed([0, 0], [1] * 49), PayloadTruncated),
    "int4 many": (INT4, packed([0, 0], [1] * 51), PayloadTooLarge),
    "topk too many": (TENTH, sparse([0] * 11, [1] * 11), PayloadTooLarge),
    "topk claims 2^32": (TENTH, sparse([], [], kept=2**32 - 1, num_bytes=2**32 - 1), PayloadTooLarge),
    "topk distances without values": (TENTH, sparse([0], []), PayloadError),
    "topk few bytes of distances": (TENTH, sparse([0], [1, 1]), PayloadError),
    "topk many bytes of distances": (TENTH, sparse([255, 255, 255, 0], [1]), PayloadError),
    "topk distance that does not end": (TENTH, sparse([0, 200], [1, 1]), PayloadError),
    "topk distance in more bytes than it needs": (TENTH, sparse([0x85, 0], [1]), PayloadError),
    "topk more distances": (TENTH, sparse([0, 0, 0], [1, 1]), PayloadError),
    "topk at the end": (TENTH, sparse([100], [1]), PayloadError),
    "topk behind the end": (TENTH, sparse([50, 49], [1, 1]), PayloadError),
    "topk far behind the end": (TENTH, sparse([0xFF, 0xFF, 0x7F], [1]), PayloadError),
    "topk zero": (TENTH, sparse([0, 0], [1, 0]), PayloadError),
    "topk even codes": (TENTH, sparse([0], [2], shift=1), PayloadError),
    "topk nothing with a shift": (TENTH, sparse([], [], shift=1), PayloadError),
    "topk code of -128": (TENTH, sparse([0], [-128]), PayloadError),
    "topk few": (TENTH, packed(2, 2, [0, 0], [0], [1]), PayloadTruncated),
    "topk many": (TENTH, packed(1, 1, [0], [0], [1, 1]), PayloadTooLarge),
}


@pytest.mark.parametrize(("form", "data", "error"), MALFORMED.values(), ids=MALFORMED)
def test_inflate__bytes_that_no_writer_gives__refused(form, data, error):
    with pytest.raises(PayloadError) as raised:
        inflated(data, 100, form)
    assert type(raised.value) is error


def test_inflate__by_hand__what_the_document_says():
    assert inflated(sparse([0, 5, 83], [3, -1, 2], shift=4), 100, TENTH)[[0, 6, 90]].tolist() == [48, -16, 32]
    dense = inflated(packed([0, 1], [0x1F] * 50), 100, INT4)
    assert dense[[0, 1, 64, 65]].tolist() == [-1, 1, -2, 2]
    assert inflated(packed([8], [127, 255] + [0] * 98), 100, INT8)[:3].tolist() == [32_512, -256, 0]


def test_inflate__odd_number_of_halves__the_last_one_is_zero():
    assert inflated(packed([0], [0x01]), 1, INT4).tolist() == [1]
    with pytest.raises(PayloadError):
        inflated(packed([0], [0x11]), 1, INT4)


def test_inflate__values_of_all_groups_together__are_counted():
    form, count = Compression("topk", Fraction(1, GROUP_VALUES)), 2 * GROUP_VALUES
    group = [[0], [0] * (GROUP_VALUES >> 14), [1]]
    assert np.count_nonzero(inflated(packed(1, 1, *group, 1, 1, *group), count, form)) == 2
    with pytest.raises(PayloadTooLarge):
        inflated(packed(2, 2, [0, 0], group[1], [1, 1], 1, 1, *group), count, form)


@pytest.mark.parametrize("form", FORMS, ids=IDS)
@pytest.mark.parametrize("content", [bytes(64 << 20), b"\xff" * (64 << 20)], ids=["zeros", "ones"])
def test_inflate__bomb__stops_in_the_memory_of_a_group(form, content):
    body = zlib.compress(content, 1)
    tracemalloc.start()
    with pytest.raises(PayloadError):
        inflated(body, 1_000, form)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 << 20


@settings(max_examples=300)
@given(st.data(), st.sampled_from(FORMS[:3]))
def test_inflate__any_byte_of_the_packing_changed__a_payload_error_or_values_of_the_form(data, form):
    values = lossy_values(like_an_update(300), form)
    raw = bytearray(zlib.decompress(compressed(values, form)))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = inflated(zlib.compress(bytes(raw)), 300, form)
    except PayloadError:
        return
    # One packing a vector: what is read is written as the very same bytes.
    assert zlib.decompress(compressed(found, form)) == bytes(raw)


@given(st.binary(max_size=120), any_form)
def test_inflate__any_bytes__a_payload_error_or_their_own_packing(raw, form):
    try:
        found = inflated(zlib.compress(raw), 60, form)
    except PayloadError:
        return
    assert zlib.decompress(compressed(found, form)) == raw
