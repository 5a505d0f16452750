"""A blob that comes in pieces side by side: what is there is known to the next attempt, and hashed in order."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest

from scow.content import ContentStore
from scow.errors import Corrupt, ScowError, Unavailable
from scow.ingest import Ingest, Piece, merged

MIB = 1 << 20
DATA = os.urandom(6 * MIB + 123)
DIGEST = "sha256:" + hashlib.sha256(DATA).hexdigest()


def put(ingest: Ingest, start: int, end: int) -> None:
    piece = Piece(ingest, start, end)
    for at in range(start, end, 100_000):
        piece.write(DATA[at : min(at + 100_000, end)])
    piece.close()


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path)


def ingest(store: ContentStore) -> Ingest:
    return store.ingest(DIGEST, len(DATA))


def test_pieces_in_any_order_make_the_blob(store: ContentStore) -> None:
    with ingest(store) as blob:
        blob.in_pieces()
        put(blob, 4 * MIB, len(DATA))
        assert blob.offset == 0
        put(blob, 0, MIB)
        blob.hash_on()
        put(blob, MIB, 4 * MIB)
        assert blob.missing() == []
        blob.commit()
    assert store.read(DIGEST) == DATA
    assert os.listdir(store.root / "ingest") == []


def test_the_next_attempt_knows_which_pieces_came(store: ContentStore) -> None:
    with ingest(store) as blob:
        put(blob, 0, 1000)
        blob.in_pieces()
        put(blob, 2 * MIB, 3 * MIB)
        put(blob, 5 * MIB, 5 * MIB + 777)
    with ingest(ContentStore(store.root)) as blob:
        assert blob.missing() == [(1000, 2 * MIB), (3 * MIB, 5 * MIB), (5 * MIB + 777, len(DATA))]
        assert (blob.offset, blob.received) == (1000, 1000 + MIB + 777)
        for start, end in blob.missing():
            put(blob, start, end)
        blob.commit()
    assert store.read(DIGEST) == DATA


def test_a_crash_costs_no_more_than_a_mebibyte_of_each_piece(store: ContentStore) -> None:
    with ingest(store) as blob:
        blob.in_pieces()
        piece = Piece(blob, MIB, 5 * MIB)
        for at in range(MIB, 4 * MIB + 500_000, 100_000):  # and no close
            piece.write(DATA[at : at + 100_000])
    with ingest(store) as blob:
        assert blob.received >= 3 * MIB


def test_a_note_that_was_cut_short_says_nothing(store: ContentStore) -> None:
    with ingest(store) as blob:
        blob.in_pieces()
        put(blob, 2 * MIB, 3 * MIB)
        notes = blob.path.with_name(blob.path.name + ".pieces")
    with notes.open("ab") as file:
        file.write(b"3145728 41943")
    with ingest(store) as blob:
        assert blob.missing() == [(0, 2 * MIB), (3 * MIB, len(DATA))]


def test_notes_of_more_than_is_there_are_not_believed(store: ContentStore) -> None:
    with ingest(store) as blob:
        blob.in_pieces()
        put(blob, 0, MIB)
    os.truncate(blob.path, 1000)
    with ingest(store) as blob:
        assert blob.missing() == [(0, len(DATA))]


def test_a_piece_that_is_wrong_is_found_by_the_digest_and_all_is_dropped(store: ContentStore) -> None:
    with ingest(store) as blob:
        blob.in_pieces()
        put(blob, 0, 3 * MIB)
        blob.write_at(3 * MIB, bytes(len(DATA) - 3 * MIB))
        with pytest.raises(Corrupt, match="digest mismatch"):
            blob.commit()
        assert blob.received == 0
    assert not store.exists(DIGEST)


def test_no_piece_grows_beyond_its_end(store: ContentStore) -> None:
    with ingest(store) as blob:
        blob.in_pieces()
        piece = Piece(blob, 0, 1000)
        with pytest.raises(Corrupt, match="more bytes came"):
            piece.write(DATA[:1001])


def test_an_abandoned_receiver_changes_nothing_any_more(store: ContentStore) -> None:
    with ingest(store) as hanging:
        hanging.write(DATA[:1000])
        hanging.abandon()
        with ingest(store) as other:
            assert other.offset == 1000
            with pytest.raises(Unavailable, match="received by somebody else"):
                hanging.write(DATA[1000:2000])
            other.write(DATA[1000:])
            other.commit()
    assert store.read(DIGEST) == DATA


def test_who_waits_for_another_receiver_can_give_up(store: ContentStore) -> None:
    gone = threading.Event()

    def waiting() -> None:
        gone.set()
        raise ScowError("nobody wants it any more")

    with ingest(store):
        with pytest.raises(ScowError, match="nobody wants it"), store.ingest(DIGEST, len(DATA), waiting):
            raise AssertionError("two receivers of one blob")
        assert gone.is_set()


def test_a_blob_that_is_forgotten_leaves_no_notes(store: ContentStore) -> None:
    with ingest(store) as blob:
        blob.in_pieces()
        put(blob, 2 * MIB, 3 * MIB)
    store.forget(DIGEST)
    assert os.listdir(store.root / "ingest") == []


def test_pieces_that_touch_or_overlap_are_one() -> None:
    assert merged([(5, 7), (0, 2), (2, 3), (6, 9), (20, 21)]) == [(0, 3), (5, 9), (20, 21)]
