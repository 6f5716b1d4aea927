"""Memory of a notebook kernel over many interactions with the explorer's panel; a part of benchmarks/explorer.py."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import numpy as np

from mmccd.anatomy import KINDS
from mmccd.explorer.panel import Panel

CELL = "from mmccd.explorer import explore\npanel = explore(device='cpu'{})"
FLAT = 2.0  # MB for 100 interactions: 20 MB in an hour of teaching with a thousand of them
MIX = {"start": 14, "step": 12, "threshold": 8, "swept": 6, "place": 4, "input": 2, "target": 2, "vertical": 1}
"""How often each control is moved in 49 interactions; the 50th is another subject."""


def other_values(control: Any) -> list[Any]:
    """What a control can say besides what it says now."""
    if hasattr(control, "options"):
        values = [o[1] if isinstance(o, tuple) else o for o in control.options]
        return [v for v in values if v != control.value]
    values = np.arange(control.min, control.max + control.step / 2, control.step).tolist()
    return [v for v in values if abs(v - control.value) > control.step / 2]


def act(panel: Panel, what: str, rng: random.Random) -> None:
    """One interaction: move the control `what`, or choose another "subject"."""
    c = panel.controls
    if what == "subject":
        what = rng.choice(("kind", "subject_seed"))
    if what == "subject_seed":
        c[what].value = rng.randrange(10**6)
    elif what == "kind":
        c[what].value = rng.choice([kind for kind in KINDS if kind != c[what].value])
    else:
        c[what].value = rng.choice(other_values(c[what]))


async def interact(panel: Panel, names: list[str], rng: random.Random) -> None:
    """Interactions, each until its picture is on the screen; called in the kernel."""
    for what in names:
        act(panel, what, rng)
        await asyncio.to_thread(panel.worker.wait)
        await asyncio.sleep(0)
        if 'role="alert"' in panel.controls["message"].value:
            raise RuntimeError(f"{what}: {panel.controls['message'].value}")


def plan(n: int, block: int, rng: random.Random) -> list[str]:
    """What is done, in order: every block the same things, shuffled, and between blocks another subject."""
    deck = [w for w, count in MIX.items() for _ in range(count)]
    blocks = (("subject" if k else "start", *rng.sample(deck, block - 1)) for k in range(0, n, block))
    return [what for names in blocks for what in names][:n]


class Kernel:
    """A kernel of its own, as a notebook has one."""

    def __enter__(self) -> Kernel:
        import psutil
        from jupyter_client import KernelManager

        self.manager = KernelManager(kernel_name="python3", transport="ipc")
        self.manager.start_kernel()
        self.client = self.manager.client()
        try:
            self.client.start_channels()
            self.client.wait_for_ready(120)
            self.process = psutil.Process(self.manager.provisioner.pid)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()

    def run(self, code: str, seconds: int = 600) -> str:
        """What the code prints; ValueError where it raises."""
        printed = []

        def hear(m: dict[str, Any]) -> None:
            if m["msg_type"] == "stream" and m["content"]["name"] == "stdout":
                printed.append(m["content"]["text"])

        options = {"silent": False, "store_history": False, "output_hook": hear, "timeout": seconds}
        reply = self.client.execute_interactive(code, **options)["content"]
        if reply["status"] != "ok":
            raise ValueError(f"the kernel says {reply.get('ename')}: {reply.get('evalue')}")
        return "".join(printed)

    @property
    def resident(self) -> float:
        """Megabytes of its process, to one digit, as they are recorded."""
        return round(self.process.memory_info().rss / 2**20, 1)


def slope(at: list[int], mb: list[float]) -> float:
    """MB for 100 interactions over the second half.

    It is the median of the slopes between any two looks, as one subject may need some dozen MB more than the next.
    """
    from scipy.stats import theilslopes

    half = [k for k, n in enumerate(at) if n >= at[-1] / 2]
    return float(100 * theilslopes([mb[k] for k in half], [at[k] for k in half])[0])


def measure_memory(size: dict[str, Any], seed: int) -> dict[str, Any]:
    """Megabytes of a kernel, looked at every few interactions."""
    at, resident, kept = [0], [], []
    names, every = plan(size["interactions"], size["block"], random.Random(seed)), size["every"]
    imports = f"import sys, random\nsys.path.append({str(Path(__file__).parent)!r})\n"
    with Kernel() as kernel:
        kernel.run(CELL.format(""))
        kernel.run(imports + f"from explorer_kernel import interact\nrng = random.Random({seed})")

        def look(code: str) -> None:
            kept.append(float(kernel.run(f"{code}\nprint(panel.explorer.traces.size / 2**20)")))
            resident.append(kernel.resident)

        look("")
        for k in range(0, len(names), every):
            look(f"await interact(panel, {names[k : k + every]!r}, rng)")
            at.append(min(k + every, len(names)))
    return {
        "interactions": at,
        "resident_mb": resident,
        "kept_mb": kept,
        "mb_per_100": slope(at, resident),
        "mix": {w: names.count(w) for w in dict.fromkeys(names)},
        "flat": f"at most {FLAT:g} MB for 100 interactions, the median of the slopes between any two looks in the "
        "second half; kept_mb is what the explorer itself keeps of what was computed, at most megabytes=128",
    }
