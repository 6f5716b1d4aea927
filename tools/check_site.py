"""Does every link of a built site lead somewhere, and does no page load from elsewhere? `check_site.py HTML` tells."""

import re
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

LARGEST = 2_000_000  # bytes of a page; the explorer is one page with all its pictures
LOADING = {"stylesheet", "icon", "preload", "prefetch", "modulepreload", "manifest"}  # kinds of <link> that fetch


class Page(HTMLParser):
    "What a page leads to, what it loads, and its places."

    def __init__(self, path):
        super().__init__()
        self.leads, self.loads, self.places = [], [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.places |= {a[k] for k in ("id", "name") if a.get(k)}
        if tag == "a" and a.get("href"):
            self.leads.append(a["href"])
        if tag == "link" and LOADING & set((a.get("rel") or "").split()):
            self.loads.append(a["href"])
        if tag in ("script", "img", "iframe", "source", "video", "audio", "embed") and a.get("src"):
            self.loads.append(a["src"])


def outside(address):
    "Does this address leave the site?"
    return bool(re.match(r"(?!data:)[a-z][a-z0-9+.-]*:|//", address))


def target(html, page, address):
    "The file that an address on a page means, and the place in it."
    path, _, anchor = address.partition("#")
    path = path.partition("?")[0]
    file = (page.parent / unquote(path)).resolve() if path else page
    return (file / "index.html" if file.is_dir() else file), unquote(anchor)


def problems(html):
    "Plain sentences, one for each link, place, load or size that is wrong, and counts of what was tried."
    html, read = Path(html).resolve(), cache(Page)
    wrong, counts = [], dict.fromkeys(("pages", "links", "anchors", "outside", "loads"), 0)
    for page in sorted(html.rglob("*.html")):
        name = page.relative_to(html).as_posix()
        counts["pages"] += 1
        if page.stat().st_size > LARGEST and page.name != "explorer.html":
            wrong.append(f"{name} has {page.stat().st_size / 1e6:.1f} MB")
        for address in read(page).leads + read(page).loads:
            load = address in read(page).loads
            if outside(address):
                counts["outside"] += 1
                wrong += [f"{name} loads {address}"] if load else []
                continue
            if address.startswith("data:"):
                continue
            file, anchor = target(html, page, address)
            counts["loads" if load else "links"] += 1
            if not file.is_file() or not file.is_relative_to(html):
                wrong.append(f"{name} leads to {address}")
            elif anchor and file.suffix == ".html":
                counts["anchors"] += 1
                if anchor not in read(file).places:
                    wrong.append(f"{name} leads to {address}, and there is no such place")
    for css in html.rglob("*.css"):
        found = re.findall(
            r"""(?:url\(\s*["']?|@import\s+["'])((?:https?:)?//[^"')\s]+)""", css.read_text(encoding="utf-8")
        )
        wrong += [f"{css.relative_to(html)} loads {address}" for address in found]
    return sorted(set(wrong)), counts


def report(html):
    "Print what is wrong and what there is; 1 where something is wrong."
    wrong, counts = problems(html)
    for line in wrong:
        print(f"wrong: {line}")
    size = sum(p.stat().st_size for p in Path(html).rglob("*") if p.is_file()) / 1e6
    largest = max(Path(html).rglob("*.html"), key=lambda p: p.stat().st_size * (p.name != "explorer.html"))
    print(
        f"{counts['pages']} pages, {size:.1f} MB, largest {largest.name} with {largest.stat().st_size / 1e6:.2f} MB\n"
        f"tried: {counts['links']} links within the site, {counts['anchors']} of them to a place in a page, and "
        f"{counts['loads']} scripts, styles and pictures; {len(wrong)} wrong; {counts['outside']} links lead outside"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(report(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent / "build/site/html"))
