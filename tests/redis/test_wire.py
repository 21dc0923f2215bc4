"""Bundles, as they go to Redis and come back: whatever octets come, a bundle or a ValueError."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triows.redis._wire import (
    Parcel,
    encode,
    pack_bundle,
    unpack_bundle,
    unpack_logged,
    unpack_published,
)

PROCESS = bytes(range(16))
ITEMS = st.lists(st.text(st.characters(exclude_categories=["Cs"])) | st.binary(), min_size=1)


def bundle_of(items, first=1):
    """Pack items with serials in a row."""
    pieces = [(serial, *encode(item)) for serial, item in enumerate(items, first)]
    return pack_bundle(PROCESS, pieces)


def parcels_of(items, first=1):
    """What that is unpacked as."""
    return [Parcel(PROCESS, serial, item) for serial, item in enumerate(items, first)]


@given(ITEMS, st.integers(1, 2**63))
def test_what_was_packed_comes_out(items, first):
    """Text as text, octets as octets, with their serials."""
    assert unpack_bundle(bundle_of(items, first)) == parcels_of(items, first)


@given(ITEMS, st.data())
def test_a_bundle_that_is_cut_or_grows_is_none(items, data):
    """It says how large it is."""
    bundle = bundle_of(items)
    for octets in (bundle[: data.draw(st.integers(0, len(bundle) - 1))], bundle + b"x"):
        with pytest.raises(ValueError, match="bundle"):
            unpack_bundle(octets)


@given(st.binary(), st.data())
def test_any_octets_are_a_bundle_or_none(octets, data):
    """Nothing but ValueError is raised, wherever octets have changed."""
    bundle = bytearray(bundle_of(["text", b"octets"]))
    bundle[data.draw(st.integers(0, len(bundle) - 1))] ^= data.draw(st.integers(1, 255))
    for one in (octets, bytes(bundle)):
        with contextlib.suppress(ValueError):
            unpack_bundle(one)
        with contextlib.suppress(ValueError):
            unpack_published(one)
        unpack_logged([b"5-0", one], 0)


def test_ones_own_bundle_is_known_by_its_head():
    """What was sent is given back as it is; another's, or another bundle, is read."""
    bundle, known = bundle_of(["a", "b"], 7), parcels_of(["a", "b"], 7)
    assert all(one is two for one, two in zip(unpack_bundle(bundle, known), known, strict=True))
    for other in ([], known[:1], parcels_of(["a", "b"], 8), [Parcel(b"x" * 16, 7, "a")] * 2):
        assert unpack_bundle(bundle, other) == known


def test_a_log_is_read_behind_a_number_within_a_bundle():
    """Items up to it are left out, and so is what is no bundle."""
    entries = [b"3-0", bundle_of("abc"), b"4-0", b"short", b"7-0", bundle_of("ef", 4)]
    items = {number: parcel.item for number, parcel in unpack_logged(entries, 1)}
    assert items == {2: "b", 3: "c", 6: "e", 7: "f"}
