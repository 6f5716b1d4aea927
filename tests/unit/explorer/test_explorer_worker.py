"The newest request only."

import threading
from dataclasses import replace

from mmccd.explorer.view import cycle_key
from mmccd.explorer.worker import NewestRequestWorker, RenderRequest, is_still_needed


def test_the_newest_request_only():
    begun, go, done = threading.Event(), threading.Event(), []

    def handle(request):
        done.append(request)
        begun.set()
        assert go.wait(60)
        if request == "first":
            raise RuntimeError("it does not stop the worker")

    worker = NewestRequestWorker(handle)
    first = worker.submit("first")
    assert begun.wait(60)
    for k in range(10):
        worker.submit(k)
    go.set()
    worker.wait()
    assert done == ["first", 9]
    assert isinstance(first.exception(), RuntimeError)
    worker.submit("after").result()
    assert done[-1] == "after"
    worker.stop()


def test_what_is_still_needed(explorer, view):
    "Of a masked cycle that is being computed, when there is a newer request."
    loader = object()

    def request(loader=loader, device="cpu", export="", **changes):
        return RenderRequest(loader, replace(view, **changes), device, (view.input, view.target), export)

    old, key = request(swept=2), cycle_key(view, 2)

    def needs(new, old=old, key=key):
        return is_still_needed(new, old, key, explorer.nearest_view)

    assert needs(old, key="whatever")
    assert needs(request(swept=3))
    assert needs(request(swept=2, threshold=0.1))
    assert needs(request(export="strips"))
    assert needs(request(seed=9), request(export="png"))
    assert needs(request(swept=999))
    assert needs(request(place=999, swept=3), key=cycle_key(replace(view, place=81), 2))
    for new in (
        request(swept=1),
        request(swept=3, seed=9),
        request(object(), swept=3),
        request(device="cuda", swept=3),
        request(export="png", start=3),
    ):
        assert not needs(new)
