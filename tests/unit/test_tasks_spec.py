"""The task specification: canonical bytes, every problem at once, and the comparison with the chain."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields, replace
from fractions import Fraction
from typing import Any

import pytest

from chainfl.agents.genesis import check_genesis_state
from chainfl.encoding.chunk_tree import zero_state_root
from chainfl.encoding.layout import Layout
from chainfl.errors import SpecificationError, SpecificationMismatch
from chainfl.storage.cid import RAW, make_cid
from chainfl.tasks import spec as specs
from chainfl.tasks.rules import MAX_OPEN_GAMES, game_bond, largest_proof, longest_game_s, longest_round_s, problems_of
from chainfl.tasks.state import Bounds, Draw, DrawBy, Rule, ServerKind, TaskParams, TaskView
from chainfl.types import Address, Compression

CID = make_cid(RAW, bytes(range(32)))
TENSORS = [
    {"name": "a.bias", "shape": [3], "dtype": "float32"},
    {"name": "a.weight", "shape": [3, 4], "dtype": "float32"},
]


def make_fields(**changes: Any) -> dict[str, Any]:
    tensors = [specs.TensorEntry(**tensor) for tensor in TENSORS]
    fields_: dict[str, Any] = {
        "name": "digits",
        "licence": "CC-BY-4.0",
        "code_version": "0.1.0",
        "model": {"kind": "registered", "name": "mlp", "params": {"in_features": 4, "num_classes": 3}, "seed": 1},
        "layout": {"hash": specs.layout_hash(tensors).hex(), "tensors": TENSORS},
        "format": specs.default_format(15),
        "training": {"steps": 40, "batch_size": 32, "learning_rate": "0.1", "momentum": "0.9"},
        "dataset": {"name": "digits", "input_shape": [1, 8, 8], "num_classes": 10},
        "rounds": 10,
        "enrolment_end": 1_800_000_000,
        "reward": 1000 * specs.TOKEN,
        "workers": Bounds(3, 5),
        "validators": Bounds(3, 3),
        "aggregators": Bounds(1, 1),
        "windows": specs.LOCAL_WINDOWS,
        "economics": specs.DEFAULT_ECONOMICS,
        "genesis": {"root": "11" * 32, "cid": CID, "float_cid": CID},
    }
    return fields_ | changes


def make_spec(**changes: Any) -> specs.TaskSpec:
    return specs.build(**make_fields(**changes))


def view_of(params: TaskParams) -> TaskView:
    shared = {f.name for f in fields(TaskView)} & {f.name for f in fields(TaskParams)}
    return TaskView(
        requester=Address("0x" + "11" * 20),
        created_at=1,
        created_block=1,
        validators_named=bool(params.named_validators),
        **{name: getattr(params, name) for name in shared},
    )


def test_spec__written_and_parsed__is_the_same_with_the_same_hash():
    spec = make_spec()
    data = spec.to_bytes()
    assert specs.parse(data, hashlib.sha256(data).digest()) == spec
    assert spec.to_params().spec_hash == hashlib.sha256(data).digest()
    assert specs.spec_cid(spec.spec_hash()).startswith("bafkrei")


def test_spec__bytes__are_sorted_ascii_without_floats():
    data = make_spec(description="Zürich").to_bytes()
    loaded = json.loads(data, parse_float=lambda _: pytest.fail("a float in a specification"))
    assert data == json.dumps(loaded, sort_keys=True, separators=(",", ":")).encode("ascii")


def test_spec__layout_hash__is_that_of_encoding():
    spec = make_spec()
    layout = Layout.from_json(spec.layout.to_json())
    assert layout.hash().hex() == spec.layout.hash
    assert layout.num_params == spec.layout.num_params() == 15


def test_parse__another_hash__is_a_mismatch():
    with pytest.raises(SpecificationMismatch):
        specs.parse(make_spec().to_bytes(), bytes(32))


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{", b"\xff" * 9, b"null", b'{"version":1e400}', b"[" * 100_000],
    ids=["empty", "list", "cut", "not utf-8", "null", "infinity", "deep"],
)
def test_parse__not_a_specification__is_an_error(data):
    with pytest.raises(SpecificationError):
        specs.parse(data, hashlib.sha256(data).digest())


def test_parse__same_document_spelled_otherwise__is_refused():
    data = json.dumps(json.loads(make_spec().to_bytes()), sort_keys=True).encode()
    with pytest.raises(SpecificationError, match="canonical"):
        specs.parse(data, hashlib.sha256(data).digest())


def test_parse__key_given_twice__is_refused():
    data = make_spec().to_bytes().replace(b'"rounds":10', b'"rounds":99,"rounds":10')
    with pytest.raises(SpecificationError):
        specs.parse(data, hashlib.sha256(data).digest())


@pytest.mark.parametrize("extra", [{"surprise": 1}, {"windows": {"commit": 1, "surprise": 2}}])
def test_parse__unknown_field__is_refused(extra):
    document = json.loads(make_spec().to_bytes())
    for key, value in extra.items():
        document[key] = {**document[key], **value} if isinstance(value, dict) else value
    data = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(SpecificationError, match="surprise"):
        specs.parse(data, hashlib.sha256(data).digest())


@pytest.mark.parametrize("value", [1.5, True, "10", None, 10.0])
def test_parse__rounds_of_another_type__is_refused(value):
    document = json.loads(make_spec().to_bytes()) | {"rounds": value}
    data = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(SpecificationError, match="rounds"):
        specs.parse(data, hashlib.sha256(data).digest())


def test_parse__longer_than_a_block__is_refused():
    data = b" " * (specs.MAX_SPEC_BYTES + 1)
    with pytest.raises(SpecificationError, match="at most"):
        specs.parse(data, hashlib.sha256(data).digest())


def test_build__many_wrong_types__lists_them_all():
    with pytest.raises(SpecificationError) as caught:
        make_spec(rounds="ten", licence=5, privacy={}, training={"steps": 0})
    text = str(caught.value)
    assert all(what in text for what in ("rounds", "licence", "privacy", "training.steps", "training.learning_rate"))


def test_build__many_contradictions__lists_them_all():
    windows = replace(specs.LOCAL_WINDOWS, slot=0)
    economics = replace(specs.DEFAULT_ECONOMICS, workers_bps=1)
    with pytest.raises(SpecificationError) as caught:
        make_spec(windows=windows, economics=economics, workers=Bounds(6, 5), format=specs.default_format(99))
    text = str(caught.value)
    assert all(what in text for what in ("windows.slot", "shares", "workers asks", "format.num_params"))


def test_check_against__same_task__is_silent():
    spec = make_spec()
    spec.check_against(view_of(spec.to_params()))


def test_check_created__same_parameters__is_silent():
    spec = make_spec()
    spec.check_created(spec.to_params())


@pytest.mark.parametrize(
    "name", ["named_validators", "genesis_cid", "genesis_float_cid", "parent_model", "licence", "windows"]
)
def test_check_created__anything_else_on_chain__is_named(name: str):
    spec = make_spec()
    params = spec.to_params()
    other = {
        "named_validators": (Address("0x" + "99" * 20),) * 3,
        "genesis_cid": replace(params.genesis_cid, digest=bytes(32)),
        "genesis_float_cid": replace(params.genesis_float_cid, digest=bytes(32)),
        "parent_model": b"\x01" * 32,
        "licence": "other",
        "windows": replace(params.windows, reveal=1),
    }
    with pytest.raises(SpecificationMismatch, match=name):
        spec.check_created(replace(params, **{name: other[name]}))


def test_rules__rounds_that_could_last_for_years__are_refused():
    params = make_spec().to_params()
    longest = 365 * 24 * 3600 // longest_round_s(params.windows, params.format)
    assert problems_of(replace(params, rounds=min(longest, 65_533))) == []
    week = 7 * 24 * 3600
    windows = replace(params.windows, slot=week)
    assert any("365 days" in told for told in problems_of(replace(params, rounds=10, windows=windows)))


def test_longest_round__of_the_presets__adds_every_window_up():
    form = replace(specs.default_format(10_000_000), chunk_params=256)
    # Depth 16: two answers and two pointers, the leaf, the proof.
    assert longest_game_s(specs.LOCAL_WINDOWS, form) == 5 * 5 + 5
    assert longest_round_s(specs.LOCAL_WINDOWS, form) == 20 + 10 + 15 + 15 + 3 * (60 + 3 + 30)


MOMENTUM = {"server": ServerKind.MOMENTUM, "momentum_num": 9, "momentum_den": 10}
ADAM = {**MOMENTUM, "server": ServerKind.ADAM, "second_num": 99, "second_den": 100, "tau": 16_777}
STATE_ROOT = bytes([7]) * 32


@pytest.mark.parametrize(
    ("form", "state_root", "told"),
    [
        ({}, bytes(32), None),
        ({}, STATE_ROOT, "state_root"),
        (MOMENTUM, STATE_ROOT, None),
        (MOMENTUM, bytes(32), "state_root"),
        (ADAM, STATE_ROOT, None),
        (ADAM, bytes(32), "state_root"),
        ({**ADAM, "tau": 0}, STATE_ROOT, "tau is 0"),
        ({**ADAM, "step_num": 1 << 20}, STATE_ROOT, "adaptive step"),
        ({**MOMENTUM, "tau": 1}, STATE_ROOT, "not of momentum"),
        ({"momentum_num": 9, "momentum_den": 10}, bytes(32), "choose the server momentum"),
        ({**MOMENTUM, "momentum_num": 11}, STATE_ROOT, "momentum 11/10"),
        ({**MOMENTUM, "momentum_num": 2**31, "momentum_den": 2**31}, STATE_ROOT, "overflow"),
        ({"rule": Rule.TRIMMED_MEAN, "trim_num": 1, "trim_den": 5}, bytes(32), None),
        ({"rule": Rule.TRIMMED_MEAN, "trim_num": 1, "trim_den": 2}, bytes(32), "leaves nothing"),
        ({"rule": Rule.TRIMMED_MEAN}, bytes(32), "leaves nothing"),
        ({"rule": Rule.MEDIAN, "trim_num": 1, "trim_den": 5}, bytes(32), "trims nothing"),
        ({"rule": Rule.MEDIAN, "group_size": 5}, bytes(32), None),
        ({"rule": Rule.MEDIAN, "group_size": 4}, bytes(32), "one group"),
        ({"group_size": 2}, bytes(32), None),
        ({"group_size": 0}, bytes(32), "group_size"),
        ({"chunk_params": 1 << 14}, bytes(32), "a proof of a wrong coordinate"),
    ],
)
def test_rules__rule_and_momentum__are_refused_as_on_chain(form, state_root, told):
    params = make_spec().to_params()
    problems = problems_of(replace(params, format=replace(params.format, **form), genesis_state_root=state_root))
    assert problems == [] if told is None else any(told in problem for problem in problems), problems


def test_limits__state_of_two_values_a_parameter__is_as_deep_as_it_is():
    """At a power of two of chunks the state has a level more: its opening is longer, and so may a game be."""
    form = replace(specs.default_format(256 << 16), chunk_params=256)
    momentum, adam = replace(form, **MOMENTUM), replace(form, **ADAM)
    assert largest_proof(momentum, 5) - largest_proof(form, 5) == 4 * 256 + 32 * 16
    assert largest_proof(adam, 5) - largest_proof(form, 5) == 4 * 256 + 32 * 17
    assert longest_game_s(specs.LOCAL_WINDOWS, momentum) == longest_game_s(specs.LOCAL_WINDOWS, form) == 5 * 5 + 5
    assert longest_game_s(specs.LOCAL_WINDOWS, adam) == 7 * 5 + 5


@pytest.mark.parametrize(
    ("workers", "rule_bytes"),
    [
        (32, 14 + 2 * (4 * 128 + 32 * 20) + 32 * (11 + 2 * 128 + 48 * 20)),
        (1024, 14 + 2 * (4 * 128 + 32 * 20) + 16 * (32 + 8 * 128 + 32 * 20)),
    ],
)
def test_largest_proof__mean__is_as_the_layout_says(workers, rule_bytes):
    form = replace(specs.default_format(128 << 20), chunk_params=128)
    updates = 11 + 32 * (workers // 64) + 8 * 128 + 32 * 20 + 64 * (11 + 2 * 128 + 48 * 20)
    assert largest_proof(form, workers) == (rule_bytes if workers == 32 else max(rule_bytes, updates))


@pytest.mark.parametrize("name", ["challenger_bond", "demand_fee"])
def test_rules__nothing_to_lose_by_disputing__is_refused(name):
    params = make_spec().to_params()
    problems = problems_of(replace(params, economics=replace(params.economics, **{name: 0})))
    assert any(name in problem for problem in problems)


def test_build__momentum__has_a_state_root_on_chain():
    form = replace(specs.default_format(15), **MOMENTUM)
    genesis = {"root": "11" * 32, "cid": CID, "float_cid": CID, "state_root": STATE_ROOT.hex()}
    spec = make_spec(format=form, genesis=genesis)
    assert spec.to_params().genesis_state_root == STATE_ROOT
    assert specs.parse(spec.to_bytes(), spec.spec_hash()) == spec
    with pytest.raises(SpecificationMismatch, match="genesis_state_root"):
        spec.check_against(replace(view_of(spec.to_params()), genesis_state_root=bytes(32)))


def test_check_genesis_state__not_zeros__is_refused_by_every_agent():
    form = replace(specs.default_format(15), **MOMENTUM)
    genesis = {"root": "11" * 32, "cid": CID, "float_cid": CID, "state_root": zero_state_root(form).hex()}
    check_genesis_state(make_spec(format=form, genesis=genesis))
    with pytest.raises(SpecificationMismatch, match="zeros"):
        check_genesis_state(make_spec(format=form, genesis=genesis | {"state_root": STATE_ROOT.hex()}))


def test_check_genesis_state__model_too_large_to_hash__is_refused_at_once():
    form = replace(specs.default_format(1 << 40), **MOMENTUM)
    genesis = specs.GenesisEntry(root="11" * 32, cid=CID, float_cid=CID, state_root=STATE_ROOT.hex())
    spec = make_spec().model_copy(update={"format": form, "genesis": genesis})
    with pytest.raises(SpecificationMismatch, match="too large"):
        check_genesis_state(spec)


def test_rules__slot_fee_above_the_bond__is_refused():
    params = make_spec().to_params()
    fee = params.economics.aggregator_bond
    assert problems_of(replace(params, economics=replace(params.economics, slot_fee=fee))) == []
    assert problems_of(replace(params, economics=replace(params.economics, slot_fee=fee + 1)))


@pytest.mark.parametrize(("name", "most"), [("challenger_bond", "aggregator_bond"), ("demand_fee", "worker_stake")])
def test_rules__disputing_dearer_than_lying__is_refused(name, most):
    params = make_spec().to_params()
    limit = getattr(params.economics, most)
    assert problems_of(replace(params, economics=replace(params.economics, **{name: limit}))) == []
    problems = problems_of(replace(params, economics=replace(params.economics, **{name: limit + 1})))
    assert any(name in problem for problem in problems)


@pytest.mark.parametrize(("name", "limit"), [("challenger_bond", "aggregator_bond"), ("demand_fee", "worker_stake")])
def test_rules__more_than_can_double__is_refused(name, limit):
    params, most = make_spec().to_params(), (1 << 96) - 1 >> 16
    edge = replace(params.economics, **{limit: (1 << 96) - 1, name: most})
    assert problems_of(replace(params, economics=edge)) == []
    problems = problems_of(replace(params, economics=replace(edge, **{name: most + 1})))
    assert any(name in problem and "double" in problem for problem in problems)


@pytest.mark.parametrize(("others", "times"), [(0, 1), (15, 1), (16, 2), (31, 2), (32, 4), (48, 8), (271, 1 << 16)])
def test_game_bond__others_are_open__each_sixteen_double_it(others, times):
    economics = make_spec().to_params().economics
    assert game_bond(economics, others) == times * economics.challenger_bond
    assert others < MAX_OPEN_GAMES


def test_check_against__other_values_on_chain__names_each():
    spec = make_spec()
    view = view_of(spec.to_params())
    changed = replace(view, rounds=3, economics=replace(view.economics, worker_stake=7), validators_named=True)
    with pytest.raises(SpecificationMismatch) as caught:
        spec.check_against(changed)
    assert {d.split(":")[0] for d in caught.value.evidence["differences"]} == {
        "rounds",
        "economics.worker_stake",
        "named_validators",
    }


@pytest.mark.parametrize("rate", ["1e-3", "-1", "nan", ".5", "0.1 ", "01", ""])
def test_build__rate_not_a_plain_decimal__is_refused(rate):
    with pytest.raises(SpecificationError, match="learning_rate"):
        make_spec(training={"steps": 1, "batch_size": 1, "learning_rate": rate})


TRAINING = {"steps": 40, "batch_size": 32, "learning_rate": "0.1"}


def with_training(**changes: Any) -> specs.TaskSpec:
    return make_spec(training=TRAINING | changes)


def test_training__none_of_the_later_fields__keeps_the_bytes_of_the_first_version():
    entry = json.loads(with_training(momentum="0.9").to_bytes())["training"]
    assert entry == {"algorithm": "fedavg", **TRAINING, "momentum": "0.9", "weight_decay": "0"}
    assert with_training(accumulation=1, precision="float32", optimizer=None).to_bytes() == with_training().to_bytes()


def test_training__a_later_field_spelled_out_with_its_default__is_not_canonical():
    document = json.loads(with_training().to_bytes())
    document["training"]["accumulation"] = 1
    data = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(SpecificationError, match="canonical"):
        specs.parse_own(data)


@pytest.mark.parametrize(
    "changes",
    [
        {"algorithm": "fedprox", "proximal_mu": "0.01", "momentum": "0.9"},
        {"algorithm": "fedprox", "proximal_mu": "0"},
        {"algorithm": "scaffold", "optimizer": {"name": "sgd", "params": {"nesterov": True}}, "momentum": "0.9"},
        {"algorithm": "fednova", "local_epochs": 3},
        {"algorithm": "feddyn", "alpha": "0.01"},
        {"optimizer": {"name": "adam", "params": {"betas": ["0.9", "0.99"], "eps": "0.00000001", "amsgrad": False}}},
        {"accumulation": 4, "precision": "bfloat16"},
    ],
)
def test_training__each_algorithm_and_setting__comes_back_as_it_was(changes):
    spec = with_training(**changes)
    again = specs.parse(spec.to_bytes(), spec.spec_hash())
    assert again == spec
    entry = json.loads(spec.to_bytes())["training"]
    assert all(entry[name] == value for name, value in changes.items())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"algorithm": "fedfoo"}, "algorithm"),
        ({"algorithm": "fedprox"}, "proximal_mu is missing"),
        ({"proximal_mu": "0.1"}, "proximal_mu is no parameter of fedavg"),
        ({"algorithm": "feddyn", "alpha": "0"}, "alpha is zero"),
        ({"algorithm": "feddyn", "alpha": "-1"}, "alpha"),
        ({"local_epochs": 0}, "local_epochs"),
        ({"accumulation": 33}, "accumulation"),
        ({"precision": "float16"}, "precision"),
        ({"momentum": "1"}, "momentum is not below 1"),
        ({"learning_rate": "0"}, "learning_rate is zero"),
        ({"optimizer": {"name": "lbfgs"}}, "none of sgd, adam"),
        ({"optimizer": {"name": "adam", "params": {"lr": "1"}}}, "params.lr is no parameter of adam"),
        ({"optimizer": {"name": "adam", "params": {"betas": ["0.9"]}}}, "betas"),
        ({"optimizer": {"name": "adam", "params": {"eps": 1e-8}}}, "eps"),
        ({"optimizer": {"name": "adam"}, "momentum": "0.9"}, "momentum is of sgd"),
        ({"optimizer": {"name": "rprop"}, "weight_decay": "0.1"}, "weight_decay is nothing that rprop has"),
        ({"optimizer": {"name": "adam"}, "algorithm": "scaffold"}, "scaffold needs the optimizer sgd"),
        ({"optimizer": {"name": "sgd", "params": {"dampening": "0.1"}}, "algorithm": "fednova"}, "without dampening"),
    ],
)
def test_training__what_does_not_go_together__is_refused(changes, told):
    with pytest.raises(SpecificationError, match=told):
        with_training(**changes)


@pytest.mark.parametrize(
    ("training", "form", "told"),
    [
        ({"algorithm": "scaffold"}, MOMENTUM, "scaffold needs the plain server step, not momentum"),
        ({"algorithm": "scaffold"}, ADAM, "scaffold needs the plain server step, not adam"),
        ({"algorithm": "feddyn", "alpha": "1"}, {**MOMENTUM, "server": ServerKind.NESTEROV}, "feddyn needs the plain"),
        ({"algorithm": "feddyn", "alpha": "1"}, {"step_num": 1, "step_den": 2}, "server step 1/1, not 1/2"),
    ],
)
def test_training__server_step_that_hides_the_aggregate__is_refused(training, form, told):
    genesis = {"root": "11" * 32, "cid": CID, "float_cid": CID}
    format_ = replace(specs.default_format(15), **form)
    if format_.has_state:
        genesis["state_root"] = zero_state_root(format_).hex()
    with pytest.raises(SpecificationError, match=told):
        make_spec(training=TRAINING | training, format=format_, genesis=genesis)
    make_spec(training=TRAINING | {"algorithm": "scaffold"}, format=replace(specs.default_format(15), step_den=2))


def test_spec__no_shards_and_plain_payloads__the_bytes_that_it_had_before_there_were_any():
    told = json.loads(make_spec().to_bytes())
    assert "payload" not in told
    assert "description_cid" not in told["dataset"]
    spelled_out = make_spec(
        payload={"compression": "none"}, dataset=make_fields()["dataset"] | {"description_cid": None}
    )
    assert spelled_out.spec_hash() == make_spec().spec_hash()


def test_spec__default_payload_written_out__is_not_canonical():
    told = json.loads(make_spec().to_bytes()) | {"payload": {"compression": "none"}}
    with pytest.raises(SpecificationError, match="canonical"):
        specs.parse_own(json.dumps(told, sort_keys=True, separators=(",", ":")).encode("ascii"))


def test_spec__shards_and_compression__come_back_and_change_the_hash():
    spec = make_spec(
        payload={"compression": "deflate"}, dataset=make_fields()["dataset"] | {"description_cid": str(CID)}
    )
    assert specs.parse_own(spec.to_bytes()) == spec
    assert (spec.payload.compression, spec.dataset.description_cid) == ("deflate", CID)
    assert spec.spec_hash() != make_spec().spec_hash()


@pytest.mark.parametrize("entry", [{"compression": "int4"}, {"compression": "topk", "keep": "0.01"}])
def test_spec__lossy_payloads__come_back_as_they_were_written(entry):
    spec = make_spec(payload=entry)
    assert specs.parse_own(spec.to_bytes()) == spec
    assert json.loads(spec.to_bytes())["payload"] == entry
    assert spec.payload.form() == Compression(entry["compression"], Fraction(entry.get("keep", 1)))


@pytest.mark.parametrize(
    "changes",
    [
        {"payload": {"compression": "zip"}},
        {"payload": {"level": 3}},
        {"payload": {"compression": "topk"}},
        {"payload": {"compression": "topk", "keep": "0"}},
        {"payload": {"compression": "topk", "keep": "1.01"}},
        {"payload": {"compression": "topk", "keep": 0.01}},
        {"payload": {"compression": "int8", "keep": "0.5"}},
        {"dataset": {"name": "d", "input_shape": [1], "num_classes": 2, "description_cid": "b" + "a" * 58}},
        {"dataset": {"name": "d", "input_shape": [1], "num_classes": 2, "description_cid": "Qm"}},
    ],
)
def test_spec__other_compression_or_no_cid__refused(changes):
    with pytest.raises(SpecificationError):
        make_spec(**changes)


# --- draws ---------------------------------------------------------------------------------------


def test_spec__everybody_takes_part__the_bytes_that_it_had_before_there_were_draws():
    assert "draw" not in json.loads(make_spec().to_bytes())
    assert make_spec(draw=Draw()).spec_hash() == make_spec().spec_hash()


@pytest.mark.parametrize("by", DrawBy)
def test_spec__draw__comes_back_and_goes_on_chain(by):
    spec = make_spec(draw=Draw(3, by))
    assert specs.parse_own(spec.to_bytes()) == spec
    assert json.loads(spec.to_bytes())["draw"] == {"by": int(by), "clients_per_round": 3}
    assert spec.to_params().draw == Draw(3, by)
    spec.check_against(view_of(spec.to_params()))
    with pytest.raises(SpecificationMismatch, match=r"draw\.clients_per_round: 3 here, 0 on chain"):
        spec.check_against(replace(view_of(spec.to_params()), draw=Draw()))


@pytest.mark.parametrize(
    ("draw", "told"),
    [
        (Draw(5, DrawBy.STAKE), None),
        (Draw(1, DrawBy.REPUTATION), None),
        (Draw(6), "of 5 workers at most"),
        (Draw(-1), "of 5 workers at most"),
        (Draw(0, DrawBy.STAKE), "everybody takes part"),
    ],
)
def test_rules__draw__is_refused_as_on_chain(draw, told):
    problems = problems_of(replace(make_spec().to_params(), draw=draw))
    assert problems == [] if told is None else any(told in problem for problem in problems), problems


def test_rules__widths_and_groups__are_of_so_many_updates_as_are_drawn():
    params = make_spec(workers=Bounds(3, 200)).to_params()
    median = replace(params.format, rule=Rule.MEDIAN)
    assert any("one group" in told for told in problems_of(replace(params, format=median)))
    assert problems_of(replace(params, format=median, draw=Draw(64))) == []


def test_validation__rule_for_more_than_are_drawn__is_refused():
    krum = {"rule": "krum", "num_malicious_clients": 1}
    assert make_spec(validation=krum).validation.rule == "krum"
    with pytest.raises(SpecificationError, match="krum against 1 needs 5 workers"):
        make_spec(validation=krum, draw=Draw(4))


@pytest.mark.parametrize("training", [{"algorithm": "scaffold"}, {"algorithm": "feddyn", "alpha": "0.1"}])
def test_training__algorithms_with_memory__go_with_a_draw(training):
    """What a worker keeps sums to zero over those who counted, whoever they were: see training/scaffold.py."""
    assert make_spec(training=make_fields()["training"] | training, draw=Draw(3)).draw == Draw(3)
