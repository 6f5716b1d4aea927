"""A font for the formulas of the site: without one made for them, browsers set indices too high.

`write_font(path)` writes the part of STIX Two Math (SIL Open Font License) that formulas need, from the package
ziamath, which brings it."""

from importlib.util import find_spec
from pathlib import Path

BLOCKS = (
    (0x20, 0x7E),
    (0xA0, 0xFF),
    (0x2C6, 0x2DD),
    (0x300, 0x338),
    (0x391, 0x3F5),
    (0x2010, 0x2063),
    (0x2102, 0x2138),
)
BLOCKS += ((0x2190, 0x21D5), (0x2200, 0x22F1), (0x2308, 0x230B), (0x239B, 0x23B9), (0x27E8, 0x27E9))
BLOCKS += ((0x1D400, 0x1D467), (0x1D49C, 0x1D4CF), (0x1D538, 0x1D56B), (0x1D6E2, 0x1D71B), (0x1D7CE, 0x1D7E1))


def write_font(path):
    "Write the font of formulas as `path` (WOFF), and CSS that loads it; False where ziamath is not installed."
    if not (found := find_spec("ziamath")):
        return False
    from fontTools.subset import Options, Subsetter, load_font, save_font

    options = Options()
    options.flavor, options.name_IDs, options.layout_features, options.notdef_outline = "woff", ["*"], ["ssty"], True
    options.recalc_timestamp = False
    font = load_font(str(Path(found.origin).parent / "fonts/STIXTwoMath-Regular.ttf"), options)
    small = Subsetter(options)
    small.populate(unicodes=[c for first, last in BLOCKS for c in range(first, last + 1)])
    small.subset(font)
    save_font(font, str(path), options)
    rule = f'@font-face {{ font-family: "Formulas"; src: url({path.name}) format("woff"); font-display: swap }}\n'
    path.with_suffix(".css").write_text(rule, encoding="utf-8")
    return True
