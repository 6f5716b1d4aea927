"""Run the notebooks of nbs/, two at a time, each in its own process under a timeout.

    python tools/notebooks.py test [NAME...]    as tests; nothing is written; --part quick leaves out long chapters
    python tools/notebooks.py run  [NAME...]    in place: outputs kept, then cleaned

NAME is a notebook's name without its ending; none means all. The exit code is 1 if a notebook failed, ran out of time
or was skipped."""

import argparse
import contextlib
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from configparser import ConfigParser
from math import inf
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent

# Seconds of a core, as `test` prints them, of all notebooks above 20 (measured 2026-11-29): the longest start first.
LONG = {
    "05_hide_and_imagine": 146,
    "06_unet": 69,
    "12_masked_diffusion": 60,
    "15_ensemble": 55,
    "03_translate_and_come_back": 41,
    "08_translate": 36,
    "09_cycle": 31,
    "07_training_loop": 28,
    "04c_postprocess": 21,
    "train_on_your_data": 21,
    "02c_slices": 20,
}
SLOW = {
    "components": 20,
    "course": 100,
}  # by folder: from so many seconds on `make test-slow` runs them, not `make test`

# A test forks from a process that has imported what nearly every notebook imports: three seconds less for each of them.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["nbdev.test", "torch", "matplotlib.pyplot", "scipy.stats", "sklearn.metrics"])


def environment(kind):
    "One thread, no network; as a test no display either (while a kernel that keeps pictures chooses its own backend)."
    env = {k: v for k, v in os.environ.items() if k not in ("MPLBACKEND", "IN_TEST")}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return (
        env
        | threads
        | {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
        | ({"MPLBACKEND": "Agg"} if kind == "test" else {})
    )


def skipped(cell, root):
    "Does nbdev leave this code cell out of a test?"
    flags = ConfigParser()
    flags.read(root / "settings.ini")
    directives = dict(re.findall(r"^#\|\s*([\w-]+):?[ \t]*(\w*)", "".join(cell["source"]), re.M))
    return directives.get("eval") == "false" or bool(directives.keys() & flags["DEFAULT"]["tst_flags"].split())


def wanted(names, root):
    "The notebooks called `names` (all if none is named), as paths."
    found = {p.stem: p for p in sorted((root / "nbs").rglob("*.ipynb")) if ".ipynb_checkpoints" not in p.parts}
    unknown = [n for n in names if n not in found]
    if unknown:
        sys.exit(f"No notebook is called {', '.join(unknown)}; there are {', '.join(found) or 'none'}.")
    if not found:
        sys.exit("There is no notebook in nbs/.")
    return [found[n] for n in names or found]


def of_part(paths, part):
    "Those of a part, the longest first: `quick` (what `make test` runs), `slow` (the rest), or `all`."
    slow = {p for p in paths if LONG.get(p.stem, 0) >= SLOW.get(p.parent.name, inf)}
    chosen = {"all": set(paths), "quick": set(paths) - slow, "slow": slow}[part]
    return sorted(chosen, key=lambda p: (-LONG.get(p.stem, 0), p))


def launch(command, limit, env, root):
    "Run `command`; its exit code (None: out of time) and all it printed. Its children end with it."
    job = subprocess.Popen(
        command,
        cwd=root,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        return job.communicate(timeout=limit)[0], job.returncode
    except subprocess.TimeoutExpired:
        os.killpg(job.pid, signal.SIGKILL)
        return job.communicate()[0], None


def test_here(path, root, log, end):
    "What a forked process does: nbdev_test, its words in the file `log`; it sends its exit code and CPU seconds."
    os.setsid()
    words = os.open(log, os.O_WRONLY | os.O_CREAT)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(words, stream.fileno())
        stream.reconfigure(write_through=True)
    os.chdir(root)
    os.environ.update(environment("test"))
    sys.path[:] = [p for p in sys.path if Path(p).resolve() != ROOT / "tools"]  # which a reader does not have
    from nbdev.test import nbdev_test

    code = 1
    try:
        nbdev_test(path=str(path), do_print=True)
        code = 0
    finally:
        end.send((code, sum(os.times()[:4])))


def fork(path, limit, root):
    "Test a notebook in a forked process: what it printed, its exit code (None: out of time), its CPU seconds."
    with tempfile.TemporaryDirectory() as folder:
        log, (ours, theirs) = Path(folder) / "log", FORKS.Pipe(duplex=False)
        job = FORKS.Process(target=test_here, args=(path, root, log, theirs))
        job.start()
        theirs.close()
        try:
            code, seconds = ours.recv() if ours.poll(limit) else (None, limit)
        except EOFError:  # killed
            code, seconds = 1, 0.0
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
        job.kill()
        job.join()
        return log.read_text(encoding="utf-8", errors="replace") if log.exists() else "", code, seconds


def hidden(path, root):
    "Does the name of a notebook, or of a folder above it, make nbdev skip it?"
    return any(part.startswith(("_", ".")) for part in path.relative_to(root / "nbs").parts)


def attempt(kind, path, limit, root=ROOT):
    "Run one notebook: its problem in words ('' if it passed), the log, and seconds (a test's: of a core)."
    start = time.monotonic()
    cells = [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    if kind == "test":
        log, code, seconds = fork(path, limit, root)
    else:
        log, code = launch([sys.executable, __file__, "one", str(path)], limit, environment(kind), root)
        seconds = time.monotonic() - start
    if hidden(path, root):
        problem = "is skipped by nbdev: its place or name hides it"
    elif code is None:
        problem = f"ran out of time ({limit:.0f} s)"
    elif code:
        problem = "failed"
    elif kind == "test" and f"- Completed {path}" not in log:
        problem = "was skipped by nbdev_test"
    elif cells and all(skipped(c, root) for c in cells):
        problem = "has no cell that runs"
    else:
        problem = ""
    return problem, log, seconds


def run_in_place(path, root=ROOT):
    "Execute one notebook in a fresh kernel and write it back without noise; a notebook that fails stays as it was."
    import nbformat
    from nbclient import NotebookClient

    nb = nbformat.read(path, 4)
    code = [c for c in nb.cells if c.cell_type == "code"]
    for c in code:
        if skipped(c, root):
            c.metadata["tags"] = ["skip-execution"]  # keeps the outputs it has
    NotebookClient(
        nb,
        timeout=None,
        kernel_name="python3",
        store_widget_state=False,
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    nb.metadata.pop("widgets", None)
    for c in code:
        c.metadata.pop("tags", None)
        c.outputs = [o for o in c.outputs if o.get("name") != "stderr"]
        for o in c.outputs:
            o.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    nbformat.write(nb, path)
    subprocess.run([BIN / "nbdev_clean", "--fname", path], cwd=root, check=True)


def main(argv=None, root=ROOT):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["test", "run", "one"])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument(
        "--part", choices=["all", "quick", "slow"], default="all", help="quick: those of make test; slow: the others"
    )
    parser.add_argument("--timeout", type=float, default=1200, help="seconds for each notebook (default %(default)g)")
    parser.add_argument("--jobs", type=int, default=2, help="notebooks at a time (default %(default)d)")
    args = parser.parse_args(argv)
    if args.kind == "one":
        return run_in_place(Path(args.names[0]), root)
    paths, failed = of_part(wanted(args.names, root), args.part), []
    with ThreadPoolExecutor(args.jobs) as pool:
        jobs = {pool.submit(attempt, args.kind, p, args.timeout, root): p for p in paths}
        for job in as_completed(jobs):
            path, (problem, log, seconds) = jobs[job], job.result()
            print(f"{path.stem:24} {seconds:6.1f} s  {problem or 'ok'}", flush=True)
            if problem:
                failed.append(path.stem)
                print("\n".join("    " + line for line in log.splitlines()[-40:]), flush=True)
    print(
        f"{len(paths) - len(failed)} notebooks passed"
        + (f", {len(failed)} did not: {', '.join(failed)}" if failed else "")
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
