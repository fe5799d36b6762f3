"""Infos across the board: numbers as columns, the rest packed, together what gymnasium makes of them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from test_contract_infos import generated_rows, upstream
from test_contract_vector_env import same

from zmqcarla.broker.protocol import pack, unpack
from zmqcarla.client_board import ClientBoard
from zmqcarla.infos import batch_infos, joined
from zmqcarla.shm.board import NOTE_BYTES, Result
from zmqcarla.shm.board_row import BoardRow
from zmqcarla.shm.scalar_infos import INFO_BYTES, InfoSplitter, Schema

ACTIONS = spaces.Discrete(2)
MAX_ENVS = 5


class _Crossing:
    """Boards of each size, with their rows."""

    def __init__(self) -> None:
        self._boards = {n: ClientBoard(ACTIONS, n, unpack) for n in range(1, MAX_ENVS + 1)}
        self._rows = {
            n: [BoardRow(board.name, ACTIONS, n, row) for row in range(n)] for n, board in self._boards.items()
        }
        self._seq = 0

    def __call__(self, infos: list[dict[str, Any]]) -> dict[str, Any]:
        """The batch that the client gets for one info a row."""
        self._seq += 1
        board, rows = self._boards[len(infos)], self._rows[len(infos)]
        for row, info in zip(rows, infos, strict=True):
            schema, note = row.put_info(info, pack) if info else (0, b"")
            row.answer(self._seq, 0, Result.NOTE if note else Result.PLAIN, note, schema, 0.5)
        for number, info in enumerate(infos):
            same(board.read_row(number)[3], info)
        results = board.read_all(self._seq)
        assert results is not None
        batch = batch_infos(results.infos, upstream.rule(len(infos))) if results.infos else {}
        return joined(results.columns, batch, results.info_keys)

    def close(self) -> None:
        for n, board in self._boards.items():
            for row in self._rows[n]:
                row.close()
            board.close()


@pytest.fixture(scope="module")
def cross() -> Iterator[_Crossing]:
    crossing = _Crossing()
    yield crossing
    crossing.close()


@pytest.mark.parametrize("seed", range(20))
def test_generated_infos_cross_the_board_as_upstream_batches_them(cross: _Crossing, seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(60):
        rows = generated_rows(draw)
        expected = upstream.outcome(lambda rows=rows: upstream(rows))
        found = upstream.outcome(lambda rows=rows: cross(rows))
        if expected is not found:
            same(found, expected)


def test_numbers_keep_key_order_and_type_among_others(cross: _Crossing) -> None:
    rows = [
        {"speed": 1.5 + row, "name": "a", "lap": row, "terms": {"x": 0.5, "y": row}, "on": True, "half": np.float32(2)}
        for row in range(3)
    ]
    batch = cross(rows)
    assert list(batch) == [name for key in rows[0] for name in (key, f"_{key}")]
    assert (batch["lap"].dtype, batch["half"].dtype, batch["on"].dtype) == (np.int64, np.float32, np.bool_)
    assert batch["terms"]["y"].tolist() == [0, 1, 2]
    assert batch["name"].tolist() == ["a", "a", "a"]


def test_an_integer_beyond_64_bits_travels_with_the_rest(cross: _Crossing) -> None:
    board_info = {"small": 1, "huge": 2**63}
    with pytest.raises(OverflowError):
        upstream([board_info])  # gymnasium's own array cannot hold it either
    with pytest.raises(OverflowError):
        cross([board_info])


def test_an_info_that_is_unlike_the_one_before_is_split_anew(cross: _Crossing) -> None:
    plain = [{"speed": 1.5, "frame": row} for row in range(2)]
    others: list[dict[str, Any]] = [
        {"speed": 2, "frame": 3},
        {"frame": 3, "speed": 1.5},
        {"speed": 1.5},
        {"speed": 1.5, "frame": 3, "town": "Town01"},
        {"speed": 1.5, "frame": {"number": 3}},
    ]
    for other in others:
        for infos in (plain, [other, other], plain):
            same(cross(infos), upstream(infos))


def test_more_numbers_than_there_is_room_for_travel_packed(cross: _Crossing) -> None:
    many = {f"key{index}": float(index) for index in range(INFO_BYTES // 8 + 1)}
    assert len(pack(many)) < NOTE_BYTES
    same(cross([many, many]), upstream([many, many]))


def test_an_infos_batch_is_the_callers_own(cross: _Crossing) -> None:
    first = cross([{"speed": 1.0}])
    cross([{"speed": 2.0}])
    assert first["speed"].tolist() == [1.0]


def test_a_schema_is_found_again_by_its_text() -> None:
    schema, values, rest = InfoSplitter().split({"b": 1, "a": {"x": 2.0}, "text": "t"})
    assert schema is not None
    assert (list(values), rest) == ([1, 2.0], {"text": "t"})
    again = Schema.parse(schema.text())
    assert (again.keys, again.fields, again.digest) == (schema.keys, schema.fields, schema.digest)
    for text in (b"", b"[]", b'{"keys": [], "fields": [["a", "object"]]}'):
        with pytest.raises(ValueError, match="expected the fields of a schema"):
            Schema.parse(text)
