"""README.md from nbs/index.ipynb. `python tools/readme.py` writes it; `--check` only says what is out of date.

Code hosts show no picture that is inlined in Markdown, so each PNG output becomes the file nbs/images/index_N.png.
A cell with `#| hide` is dropped, one with `#| echo: false` keeps its output only, `#| fig-alt: words` describes its
picture."""

import re
import sys
from base64 import b64decode
from pathlib import Path

from execnb.nbio import read_nb

LINK = re.compile(r'(\]\(|src="|href=")(?!https?:|mailto:|data:|#|/)(?:\./)?([^)\s"]+)')


def relink(text):
    "Relative links of a notebook in nbs/, seen from the folder above it."
    return LINK.sub(lambda m: m[1] + (m[2][3:] if m[2].startswith("../") else "nbs/" + m[2]), text)


def fence(text, language=""):
    return f"```{language}\n{text.strip(chr(10))}\n```"


def output(out, alt, pictures):
    "Markdown of one output; PNG bytes are added to `pictures`, a dict from file name to bytes."
    data = out.get("data", {})
    if "image/png" in data:
        name = f"index_{len(pictures)}.png"
        pictures[name] = b64decode("".join(data["image/png"]))
        return f"![{alt}](nbs/images/{name})"
    if "text/markdown" in data:
        return relink("".join(data["text/markdown"]).strip())
    text = "".join(out.get("text", data.get("text/plain", "")))
    return fence(text, "text") if text.strip() else ""


def render(path):
    "The README's text, and its pictures as a dict from file name to bytes."
    blocks, pictures = [], {}
    for cell in read_nb(path).cells:
        said = dict(re.findall(r"^#\|\s*([\w-]+):?[ \t]*(.*)$", cell.source, re.M)) if cell.cell_type == "code" else {}
        if cell.cell_type == "raw" or "hide" in said:
            continue
        if cell.cell_type == "markdown":
            blocks.append(relink(cell.source.strip()))
            continue
        code = (
            re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M).strip().replace('"../', '"')
        )  # seen from the folder above
        if code and said.get("echo") != "false":
            blocks.append(fence(code, "python"))
        blocks += [output(o, said.get("fig-alt", "figure").strip("\"' "), pictures) for o in cell.outputs]
    return "\n\n".join(filter(None, blocks)) + "\n", pictures


def stale(root):
    "Files below `root` that differ from what index.ipynb says: wanted bytes by path (None: should not exist)."
    text, pictures = render(Path(root) / "nbs/index.ipynb")
    want = {"README.md": text.encode()} | {f"nbs/images/{k}": v for k, v in pictures.items()}
    want |= {f"nbs/images/{p.name}": None for p in Path(root).glob("nbs/images/index_*.png") if p.name not in pictures}
    have = {k: (Path(root) / k).read_bytes() if (Path(root) / k).exists() else None for k in want}
    return {k: v for k, v in want.items() if have[k] != v}


def main(root=".", check=False):
    changes = stale(root)
    for name, wanted in changes.items():
        if check:
            print(f"{name} does not match nbs/index.ipynb: run `python tools/readme.py`.")
        elif wanted is None:
            (Path(root) / name).unlink()
        else:
            (Path(root) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(root) / name).write_bytes(wanted)
    return 1 if check and changes else 0


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parent.parent, "--check" in sys.argv))
