from headrace.workers.speech.source_slots import SourceSlots


def taken(slots: SourceSlots, digest: bytes) -> int:
    assert slots.admits(digest, beside_decodes=False)
    slots.join(digest)
    if not slots.is_filled(digest):
        slots.fill(digest, 0.1)
    return slots.slot_of(digest)


def test_windows_have_slots_of_their_own() -> None:
    slots = SourceSlots(3)
    slots.begin_step()
    assert len({taken(slots, name) for name in (b"a", b"b", b"c")}) == 3
    assert not slots.admits(b"d", beside_decodes=False)
    assert slots.admits(b"a", beside_decodes=True)


def test_an_idle_window_keeps_its_slot_until_others_need_it() -> None:
    slots = SourceSlots(2)
    slots.begin_step()
    first = taken(slots, b"a")
    slots.leave(b"a")
    assert slots.is_filled(b"a")
    assert slots.admits(b"a", beside_decodes=True)
    taken(slots, b"b")
    assert taken(slots, b"c") == first  # the slot of the only idle one
    assert not slots.admits(b"a", beside_decodes=False)


def test_few_idle_windows_are_kept_where_slots_are_many() -> None:
    slots = SourceSlots(100)
    used = set()
    for number in range(40):
        slots.begin_step()
        used.add(taken(slots, b"%d" % number))
        slots.leave(b"%d" % number)
    assert len(used) < 10


def test_one_window_is_encoded_beside_decodes() -> None:
    slots = SourceSlots(9)
    slots.begin_step()
    assert slots.admits(b"a", beside_decodes=True)
    slots.join(b"a")
    assert not slots.admits(b"b", beside_decodes=True)
    slots.begin_step()
    assert slots.admits(b"b", beside_decodes=True)


def test_as_many_windows_as_a_second_allows_without_decodes() -> None:
    slots = SourceSlots(99)
    slots.begin_step()
    slots.join(b"a")
    slots.fill(b"a", 0.3)
    slots.begin_step()
    admitted = 0
    while slots.admits(b"%d" % admitted, beside_decodes=False):
        slots.join(b"%d" % admitted)
        admitted += 1
    assert admitted == 3


def test_the_first_window_of_all_is_encoded_by_itself() -> None:
    """How long it takes is not known yet: that of a large model may take half a minute."""
    slots = SourceSlots(9)
    slots.begin_step()
    assert slots.admits(b"a", beside_decodes=False)
    slots.join(b"a")
    assert not slots.admits(b"b", beside_decodes=False)


def test_a_window_that_was_never_encoded_leaves_nothing() -> None:
    slots = SourceSlots(1)
    slots.begin_step()
    slots.join(b"a")
    slots.leave(b"a")
    slots.begin_step()
    assert slots.admits(b"b", beside_decodes=False)
    slots.join(b"b")
    assert not slots.is_filled(b"b")


def test_clearing_forgets_what_slots_hold() -> None:
    slots = SourceSlots(2)
    slots.begin_step()
    taken(slots, b"a")
    slots.leave(b"a")
    slots.clear()
    slots.begin_step()
    slots.join(b"a")
    assert not slots.is_filled(b"a")
