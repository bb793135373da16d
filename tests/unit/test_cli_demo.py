"""What the demo says at its end."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from chainfl.cli import demo


@pytest.mark.parametrize(
    ("name", "outcome", "told"),
    [
        ("wrong-aggregate", "final", "the second one, which stands"),
        ("wrong-aggregate", "refuted", "Every update and attempt of round 2"),
        ("norm", "final", "Every update and attempt of round 2"),
    ],
)
def test_tell_next__after_an_attack__names_the_audit_of_its_round(capsys, name, outcome, told):
    attack = SimpleNamespace(name=name, round=2)
    demo._tell_next(
        SimpleNamespace(folder="run", model_id="0xab", rounds=3, outcomes=("final", outcome, "final"), attack=attack)
    )
    *_, words, command = capsys.readouterr().out.splitlines()
    assert told in words
    assert command.endswith("--config run/chainfl.toml round audit 1 2")


def test_tell_next__no_attack__ends_with_the_replay(capsys):
    demo._tell_next(SimpleNamespace(folder="run", model_id="0xab", rounds=3, outcomes=("final",) * 3, attack=None))
    assert capsys.readouterr().out.splitlines()[-1].endswith("round replay 1 3")
