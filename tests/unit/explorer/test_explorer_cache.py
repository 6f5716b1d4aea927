"Only what is needed is computed, and no more is kept than allowed."

from collections import OrderedDict
from dataclasses import replace

from explorer_toys import cached, caches, counted, untrained
from hypothesis import given
from hypothesis import strategies as st

from mmccd.explorer.cache import LRUCache
from mmccd.explorer.controls import control_limits
from mmccd.explorer.explorer import Explorer
from mmccd.explorer.view import cycle_key, required_cycles


def test_only_what_is_needed_is_computed(full_toy, run):
    e = Explorer(full_toy, run)
    v = e.first_view(steps=3)

    def look(**changes):
        view = replace(v, **changes)
        return counted(e, lambda: (e.png(view), e.describe(view), e.scores(view), control_limits(e, view)))

    assert look() == [cycle_key(v, 0)] * 3
    assert required_cycles(v) == [cycle_key(v, 0)]
    for changes in ({}, dict(step=1), dict(threshold=0.1), dict(twin=True), dict(rows=2)):
        assert look(**changes) == []
    assert look(start=v.start + 1) == [cycle_key(replace(v, start=v.start + 1), 0)] * 3
    swept = replace(v, swept=2, by_hand=False)
    assert sorted(look(swept=2, by_hand=False)) == sorted(required_cycles(swept) * 3)
    assert len(required_cycles(swept)) == 2
    assert look(swept=3, by_hand=False) == [cycle_key(v, 3)] * 3
    assert look(swept=1, by_hand=False) == []
    both = replace(swept, by_hand=True)  # the strip in the pictures, the sweep in the map
    assert set(required_cycles(both)) == {cycle_key(v, k) for k in (0, 1, 2)}
    assert look(swept=2) == []
    gif = counted(e, lambda: e.gif(v, "strips"))
    assert set(gif) == {cycle_key(v, len(e.masks(v)))}
    assert not counted(e, lambda: e.gif(v, "steps"))


def test_a_strip_placed_by_hand_does_not_depend_on_the_sweep(full_toy, run):
    e = Explorer(full_toy, run)
    v = e.first_view(steps=2)
    other, paper = replace(v, sampler="one by one"), replace(v, sampler="paper")
    assert len(counted(e, lambda: e.png(v))) == 2
    assert not counted(e, lambda: (e.png(other), e.describe(other), e.scores(other)))
    assert e.png(other) == Explorer(full_toy, run).png(other)  # what it would have been
    assert cycle_key(v, 1) != cycle_key(other, 1)
    assert len(counted(e, lambda: e.png(replace(other, swept=1, by_hand=False)))) == 2
    assert len(counted(e, lambda: e.png(paper))) == 2
    assert e.png(paper) == Explorer(full_toy, run).png(paper)
    assert [s.t for s in e.trace(paper).steps] != [s.t for s in e.trace(v).steps]


@given(
    limit=st.integers(1, 60),
    requests=st.lists(st.tuples(st.integers(0, 6), st.integers(1, 20), st.booleans()), max_size=30),
)
def test_the_cache_keeps_the_latest(limit, requests):
    kept, book = LRUCache(limit), OrderedDict()
    for key, size, fetch in requests:
        if fetch and key in book:
            book.move_to_end(key)
            assert kept.fetch(key) == book[key][0]
        else:
            book.pop(key, None)
            book[key] = (key, size), size
            while sum(s for _, s in book.values()) > limit and len(book) > 1:
                book.popitem(last=False)
            assert kept.store(key, (key, size), size) == (key, size)
        assert list(kept) == list(book)
        assert kept.size == sum(s for _, s in book.values())
        assert kept.size <= limit or len(kept) == 1
    kept.clear()
    assert not kept
    assert kept.size == 0


def test_errors_of_a_long_sweep_survive_its_traces(toy, run):
    e = Explorer(toy, run, megabytes=0.7)
    v = e.first_view(steps=4, sampler="one by one", width=2, swept=1)
    n = len(e.masks(v))
    assert n * e.trace(v, 1).x.nbytes * 13 > 2 * e.traces.limit, "the sweep must not fit"
    e.png(replace(v, swept=n - 2))
    assert cycle_key(v, 1) not in cached(e)
    for k in (n - 1, n):  # a step of the sweep computes one cycle
        assert set(counted(e, lambda k=k: e.png(replace(v, swept=k)))) == {cycle_key(v, k)}
    assert sum(c.size for c in caches(e)) <= sum(c.limit for c in caches(e)) <= 0.7 * 2**20


def test_what_is_cached_is_counted_as_large_as_it_is(small):
    v = small.first_view(steps=4)
    t, (_, size) = small.trace(v), cached(small)[cycle_key(v, 0)]
    tensors = {
        p.data_ptr(): p.nbytes
        for p in [t.x, t.brain, t.mask, t.cond, t.y, t.reconstruction, *(p for s in t.steps for p in s[1:])]
    }
    assert sum(tensors.values()) <= size


def test_another_subject_leaves_nothing_of_the_first(subject, toy, tmp_path):
    run = untrained(tmp_path / "run", fov=240.0)  # which a whole head fits into
    e = Explorer(subject, run)
    e.png(e.first_view(steps=2))
    e.set_subject(toy)
    v = e.first_view(steps=2)
    assert e.png(v) == Explorer(toy, run).png(v)
    e.set_device("cpu")
    assert not cached(e)
    assert e.png(v) == Explorer(toy, run).png(v)
