"""Fetching what the next phase needs while an agent waits for it. Nothing depends on it but time."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from chainfl.agents.background import Background
from chainfl.agents.context import AgentContext
from chainfl.encoding.payload import max_model_bytes, max_update_bytes
from chainfl.errors import ChainflError
from chainfl.storage.port import FarStore
from chainfl.tasks.cids import cid_text
from chainfl.tasks.state import CidOnChain, Phase, Role, RoundView, Snapshot

FETCHES_AT_ONCE = 4

_UPDATES_ARE_SHOWN = (Phase.REVEAL, Phase.SCORE_COMMIT, Phase.SCORE_REVEAL, Phase.ANSWER, Phase.TALLY)
_MODEL_IS_POSTED = (Phase.CHALLENGE, Phase.DISPUTE)


@dataclass(frozen=True, slots=True)
class _Stand:
    """What of a round decides which content is known; nothing is asked again before it changes."""

    round: int
    attempt: int
    revealed: int
    is_posted: bool

    @classmethod
    def of(cls, view: RoundView) -> _Stand:
        return cls(view.round, view.attempt, view.revealed, view.phase in _MODEL_IS_POSTED)


class Prefetch:
    """One agent's, in one task. Whoever has all content at hand already prefetches nothing."""

    def __init__(self, context: AgentContext, role: Role) -> None:
        self._context = context
        self._role = role
        self._store = context.store if isinstance(context.store, FarStore) else None
        self._fetches = Background(FETCHES_AT_ONCE)
        self._seen: _Stand | None = None

    def look(self, snapshot: Snapshot) -> None:
        """Starts what is missing, and returns at once. Never raises what a store or a stranger caused."""
        stand = _Stand.of(snapshot.round)
        if self._store is None or stand == self._seen or snapshot.round.round == 0:
            return
        try:
            for cid, max_bytes in self._wanted(snapshot):
                self._fetches.start(cid, partial(_fetch, self._store, cid, max_bytes))
        except ChainflError as error:
            self._context.log.emit("not_prefetched", level=logging.DEBUG, why=str(error))
            return
        self._seen = stand

    def _wanted(self, snapshot: Snapshot) -> Iterator[tuple[CidOnChain, int]]:
        scope, view = self._context.scope, snapshot.round
        form = scope.format
        if view.phase in _MODEL_IS_POSTED:
            limit = max_model_bytes(form.num_params, form.state_params)
            yield from ((cid, limit) for cid in self._posted(view))
        # A validator fetches updates by itself; a worker needs nobody's.
        elif self._role is Role.AGGREGATOR and view.revealed and view.phase in _UPDATES_ARE_SHOWN:
            revealed = self._context.chain.revealed_updates(snapshot.task_id, view.round, view.opened_block)
            limit = max_update_bytes(form.num_params, scope.compression)
            yield from ((update.cid, limit) for update in revealed)

    def _posted(self, view: RoundView) -> Iterable[CidOnChain]:
        """The next round's model, unless it falls."""
        chain, task_id = self._context.chain, self._context.scope.task_id
        posted = chain.posted_aggregates(task_id, view.round, view.opened_block)
        return [one.cid for one in posted if one.attempt == view.attempt and one.poster != chain.account]


def _fetch(store: FarStore, cid: CidOnChain, max_bytes: int) -> None:
    # In the job: what a stranger revealed as its CID may be none, and the others' are fetched all the same.
    store.prefetch(cid_text(cid), max_bytes=max_bytes)
