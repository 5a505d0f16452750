from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path

import pytest

from scow.content import ContentStore
from scow.errors import Corrupt, InvalidArgument, NotFound
from scow.oci import digest_of

DATA = os.urandom(300_000)
DIGEST = digest_of(DATA)


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "content")


def test_the_layout_is_an_oci_image_layout(store: ContentStore) -> None:
    assert json.loads((store.root / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    store.put(b"blob")
    assert (store.root / "blobs/sha256" / hashlib.sha256(b"blob").hexdigest()).read_bytes() == b"blob"


def test_what_was_put_is_read_sized_listed_and_deleted(store: ContentStore) -> None:
    digest = store.put(DATA)
    assert (digest, store.size(digest), store.exists(digest)) == (DIGEST, len(DATA), True)
    with store.open(digest) as blob:
        assert blob.read() == DATA
    assert list(store.list()) == [digest]
    assert store.delete(digest) == len(DATA)
    assert store.delete(digest) == 0
    with pytest.raises(NotFound):
        store.open(digest)
    with pytest.raises(NotFound):
        store.size(digest)


@pytest.mark.parametrize(
    "digest", ["sha256:../../etc/passwd", "sha256:ABC", "md5:" + "0" * 32, "", "sha256:" + "0" * 63]
)
def test_what_is_no_digest_never_becomes_a_path(store: ContentStore, digest: str) -> None:
    for call in (store.path, store.exists, store.open, store.delete):
        with pytest.raises(InvalidArgument):
            call(digest)


def test_sha512_is_a_digest_too(store: ContentStore) -> None:
    digest = "sha512:" + hashlib.sha512(DATA).hexdigest()
    assert store.put(DATA, digest) == digest
    assert store.read(digest) == DATA


def test_a_wrong_digest_is_corrupt_and_starts_over(store: ContentStore) -> None:
    with store.ingest(DIGEST, len(DATA)) as ingest:
        ingest.write(DATA[:-1] + b"x" if DATA[-1:] != b"x" else DATA[:-1] + b"y")
        with pytest.raises(Corrupt, match=f"wanted {DIGEST}"):
            ingest.commit()
        assert ingest.offset == 0
    assert not store.exists(DIGEST)
    with pytest.raises(Corrupt):
        store.put(b"other", DIGEST)


def test_more_or_fewer_bytes_than_announced_are_corrupt(store: ContentStore) -> None:
    with store.ingest(DIGEST, 100) as ingest:
        with pytest.raises(Corrupt, match="larger than 100 bytes"):
            ingest.write(DATA)
    with store.ingest(DIGEST, len(DATA)) as ingest:
        ingest.write(DATA[:5])
        with pytest.raises(Corrupt, match="ended after 5 of"):
            ingest.commit()


def test_what_was_received_is_kept_and_gone_on_with(store: ContentStore) -> None:
    with pytest.raises(ConnectionError):
        with store.ingest(DIGEST, len(DATA)) as ingest:
            ingest.write(DATA[:1000])
            raise ConnectionError
    with ContentStore(store.root).ingest(DIGEST, len(DATA)) as ingest:
        assert ingest.offset == 1000
        ingest.write(DATA[1000:])
        ingest.commit()
    assert store.read(DIGEST) == DATA
    assert os.listdir(store.root / "ingest") == []


def test_what_was_received_can_be_given_up(store: ContentStore) -> None:
    with store.ingest(DIGEST, len(DATA)) as ingest:
        ingest.write(DATA[:1000])
        store.forget(DIGEST)
        assert ingest.path.exists()
    store.forget(DIGEST)
    store.forget(DIGEST)
    assert not ingest.path.exists()


def test_who_waits_for_the_same_blob_finds_it_done(store: ContentStore) -> None:
    found: list[bool] = []

    def second() -> None:
        with store.ingest(DIGEST, len(DATA)) as ingest:
            found.append(ingest.done)

    with store.ingest(DIGEST, len(DATA)) as ingest:
        thread = threading.Thread(target=second)
        thread.start()
        ingest.write(DATA)
        ingest.commit()
    thread.join(10)
    assert found == [True]
    assert os.listdir(store.root / "ingest") == []


def test_a_stream_of_unknown_digest(store: ContentStore) -> None:
    assert store.put_stream([DATA[:1000], DATA[1000:]]) == (DIGEST, len(DATA))
    with pytest.raises(ZeroDivisionError):
        store.put_stream(bytes(1 // number) for number in (1, 0))
    assert os.listdir(store.root / "ingest") == []


def test_a_damaged_blob_is_noticed_when_read(store: ContentStore) -> None:
    digest = store.put(DATA)
    with store.path(digest).open("r+b") as file:
        file.write(b"damage")
    with pytest.raises(Corrupt, match="damaged"):
        store.read(digest)


def test_only_old_and_unreferenced_blobs_are_collected(store: ContentStore) -> None:
    kept, old, new = store.put(b"kept"), store.put(b"old"), store.put(b"new")
    with store.ingest(DIGEST, len(DATA)) as ingest:
        ingest.write(b"part")
    for path in (store.path(kept), store.path(old), ingest.path):
        os.utime(path, (1, 1))
    assert store.collect({kept}, 3600, only={kept}) == {}
    assert store.collect({kept}, 3600) == {old: 3, DIGEST: 4}
    assert set(store.list()) == {kept, new}
    assert os.listdir(store.root / "ingest") == []
