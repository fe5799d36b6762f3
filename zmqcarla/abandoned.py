"""A call whose wait was given up while rows were still busy with it: its end comes before anything else is asked.

No row may do two things, and the slot that those rows write must not be lent meanwhile. The results are dropped, but
what they say of ended episodes and dead workers is remembered.
"""

from __future__ import annotations

from gymnasium.vector.async_vector_env import AsyncState

from zmqcarla.lease import Outcome
from zmqcarla.row_states import RowStates
from zmqcarla.rows import Rows
from zmqcarla.shm.ring import SlotRing


class AbandonedCall:
    """At most one call that was given up.

    Attributes:
        pending: whether there is one.

    Args:
        rows: of the vector env.
        states: of its rows.
        ring: of its slots.
    """

    def __init__(self, rows: Rows, states: RowStates, ring: SlotRing) -> None:
        self._rows = rows
        self._states = states
        self._ring = ring
        self._call: tuple[AsyncState, int, int] | None = None
        self.pending = False

    def note(self, state: AsyncState, seq: int, slot: int) -> None:
        """The wait for call `seq`, which writes `slot` (-1 for none), was given up."""
        self._call = (state, seq, slot)
        self.pending = True

    def finish(self, timeout_s: float) -> list[Outcome]:
        """Wait for the end of the call that was given up, if there is one.

        Returns:
            Outcomes of workers that will not come back.

        Raises:
            CommandTimeoutError: rows are still busy; the next `finish` goes on waiting.
        """
        if self._call is None:
            return []
        state, seq, slot = self._call
        if state is AsyncState.WAITING_STEP:
            batch, outcomes = self._rows.finish(seq, slot, timeout_s)
            self._states.note_step(batch, outcomes)
        else:
            outcomes = self._rows.collect(seq, timeout_s)
            self._states.note_loss(outcome.row for outcome in outcomes if outcome.kind == "lost")
        if state is AsyncState.WAITING_RESET:
            for outcome in outcomes:
                if outcome.kind == "ok":
                    self._rows.accept_reset(outcome, slot, seq)
                    self._states.note_reset(outcome)
        self._call = None
        self.pending = False
        if slot >= 0:
            self._ring.give_back(slot)
        return [outcome for outcome in outcomes if outcome.kind == "gone"]
