"""What a challenger must not lose: the salt and the proof behind everything that it announced.

One file a case, written whole before the announcement is sent, so that a process that is killed at any point finds
each bond again: proven later, or given back.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from pathlib import Path

from chainfl.agents.journal import Journal
from chainfl.errors import JournalDamaged


class Against(StrEnum):
    """What a proof is about, and so how it is announced and delivered."""

    AGGREGATE = "aggregate"
    UPDATE = "update"
    GAME = "game"


@dataclass(frozen=True, slots=True)
class Case:
    """A proof that is ready. subject: the worker's index (UPDATE) or the game's number (GAME), 0 for an aggregate.

    attempt: of the aggregate, 0 for an update.
    """

    against: Against
    round: int
    attempt: int
    subject: int
    proof: bytes
    salt: bytes

    @property
    def key(self) -> str:
        """Names the case; there is one for each subject."""
        return f"{self.against.value}-{self.round}-{self.attempt}-{self.subject}"


class CaseFile:
    """The open cases of a challenger in one task, kept in its journal's folder."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def open(self, case: Case) -> None:
        """Keeps a case. The proof is written first: without its record it does not count."""
        self._journal.keep(f"proof-{case.key}.bin", case.proof)
        record = {
            "against": case.against.value,
            "round": case.round,
            "attempt": case.attempt,
            "subject": case.subject,
            "salt": case.salt.hex(),
            "proof_sha256": sha256(case.proof).hexdigest(),
        }
        self._journal.keep(f"case-{case.key}.json", json.dumps(record, sort_keys=True).encode())

    def close(self, case: Case) -> None:
        """Forgets a case whose bond and reward are settled."""
        self._journal.forget(f"case-{case.key}.json")
        self._journal.forget(f"proof-{case.key}.bin")

    def all(self) -> Iterator[Case]:
        """Every open case, the oldest round first. Raises JournalDamaged."""
        found = [self._read(path) for path in self._journal.folder.glob("case-*.json")]
        yield from sorted(found, key=lambda case: (case.round, case.attempt, case.key))

    def _read(self, path: Path) -> Case:
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            against, salt = Against(record["against"]), bytes.fromhex(record["salt"])
            numbers = int(record["round"]), int(record["attempt"]), int(record["subject"])
            proof = path.with_name(path.name.replace("case-", "proof-", 1)).with_suffix(".bin").read_bytes()
            intact = sha256(proof).hexdigest() == record["proof_sha256"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise JournalDamaged(f"{path} cannot be read: {error}", path=str(path)) from error
        if not intact:
            raise JournalDamaged(f"the proof beside {path} is not the one that was announced", path=str(path))
        return Case(against, *numbers, proof, salt)
