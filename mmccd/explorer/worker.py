""""""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from mmccd.explorer.view import View, needed


class Stale(Exception):
    "Nobody wants this any more."


class Latest:
    "A worker in a thread of its own that knows the newest wish only."

    def __init__(
        self,
        work,  # function of a wish
        drop=lambda wish: None,  # function of a wish that is not begun since a newer one came
    ):
        self.work, self.drop, self.newest, self.pool = work, drop, None, ThreadPoolExecutor(1)

    def ask(self, wish):  # returns a future
        self.newest = wish
        return self.pool.submit(self.turn, wish)

    def turn(self, wish):
        return self.work(wish) if wish is self.newest else self.drop(wish)

    def wait(self):
        self.pool.submit(int).result()  # until all is quiet


@dataclass(frozen=True, eq=False)
class RenderRequest:
    "What the person at the controls wants now."

    loader: object  # function that returns a `Subject`
    view: View  # what to look at
    device: str  # where networks run
    way: tuple  # (input, target) that the controls showed before: the threshold belongs to it
    keep: str = ""  # "png", "steps" or "strips": save that


def wanted_by(
    wish: RenderRequest,  # the newest
    old: RenderRequest,  # the one that is worked on
    key,  # of the cycle that is computed
    fit,  # function that makes a view possible, as `Explorer.fit`
) -> bool:
    "Does the newest wish need what an older one is computing?"
    if wish is old or old.keep == "png":
        return True  # a picture is saved even if a control is moved
    same = wish.loader is old.loader and wish.device == old.device
    return same and (wish.keep == "strips" or key in needed(fit(wish.view)))
