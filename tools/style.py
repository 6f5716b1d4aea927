"""The limits of our notebooks as functions: each takes a Notebook and yields plain sentences that name the cell.

`ANY` holds the rules for every notebook, `COMPONENT` those for the chapters in nbs/components/, which define a
module, `GUIDE` those for nbs/guides/, which use the package, and `LESSON` those for nbs/course/; `problems(path)`
applies what fits."""

import ast
import io
import json
import re
import tokenize
from pathlib import Path

ANY, COMPONENT, GUIDE, LESSON = {}, {}, {}, {}
FUNCTION, CLASS, OTHER = 40, 80, 20  # lines of a cell with an exported function, an exported class, anything else
MODULE = 300  # exported lines of a chapter that are neither blank nor comment
COLUMNS = 120
TESTED, PROSE = 1 / 3, 0.7  # share of the code cells with a test; Markdown cells for each code cell
KILOBYTES = 300
GUIDE_CELLS = 25
LESSON_LINES = 150  # of code that a student reads: neither blank nor comment, without what is hidden and the checks
KINDS = ("warm-up", "equation", "break it", "open")  # of the exercises of a lesson, one of each in this order
DEFS = (ast.FunctionDef, ast.AsyncFunctionDef)


class Cell:
    def __init__(self, number, raw):
        self.number, self.kind, self.id = number, raw["cell_type"], raw.get("id")
        self.source, self.outputs, self.metadata = (
            "".join(raw["source"]),
            raw.get("outputs", []),
            raw.get("metadata", {}),
        )
        self.directives = dict(re.findall(r"^#\|\s*([\w-]+):?[ \t]*(.*)$", self.source, re.M)) if self.code else {}

    @property
    def code(self):
        return self.kind == "code"

    @property
    def exported(self):
        return bool({"export", "exporti", "exports"} & self.directives.keys())

    @property
    def python(self):
        "The source without directives, magics and shell lines; the line numbers stay."
        return re.sub(r"^(#\||\s*[%!]).*$", "", self.source, flags=re.M)

    @property
    def tree(self):
        try:
            return ast.parse(self.python)
        except SyntaxError:
            return ast.parse("")

    @property
    def length(self):
        return len(re.sub(r"^#\|.*\n?", "", self.source, flags=re.M).strip().splitlines())

    @property
    def words(self):
        "Everything a reader sees as text in the outputs."
        texts = [o.get("text", "") for o in self.outputs]
        texts += [v for o in self.outputs for k, v in o.get("data", {}).items() if k.startswith("text/") or "svg" in k]
        return "\n".join("".join(t) for t in texts)

    def __str__(self):
        first = next((line for line in self.source.splitlines() if line.strip() and not line.startswith("#|")), "")
        return f"cell {self.number} ({first.strip()[:50]!r})"


class Notebook:
    def __init__(self, path):
        self.path = Path(path)
        raw = json.loads(self.path.read_text(encoding="utf-8"))
        self.name, self.metadata = self.path.stem, raw.get("metadata", {})
        self.cells = [Cell(i, c) for i, c in enumerate(raw["cells"])]

    code = property(lambda self: [c for c in self.cells if c.code])
    markdown = property(lambda self: [c for c in self.cells if c.kind == "markdown"])
    exported = property(lambda self: [c for c in self.code if c.exported])
    module = property(lambda self: self.name.split("_", 1)[-1])
    room = property(lambda self: self.path.parent.name)
    prose = property(lambda self: "\n\n".join(c.source for c in self.markdown))


def components(nbs):
    "The chapters of folder `nbs` that define a module, in order."
    return sorted(Path(nbs).glob("components/*.ipynb"))


def guides(nbs):
    "The notebooks of folder `nbs` that use the package."
    return sorted(Path(nbs).glob("guides/*.ipynb"))


def lessons(nbs):
    "The notebooks of the course, in order."
    return sorted(Path(nbs).glob("course/*.ipynb"))


def rule(book):
    def register(function):
        book[function.__name__] = function
        return function

    return register


def problems(path):
    "What is wrong with the notebook at `path`: a list of sentences, each starting with its name."
    nb = Notebook(path)
    rules = ANY | {"components": COMPONENT, "guides": GUIDE, "course": LESSON}.get(nb.room, {})
    return [f"{nb.name}: {sentence}" for check in rules.values() for sentence in check(nb)]


def definitions(cell):
    "Functions and classes at the top level of a cell."
    return [n for n in cell.tree.body if isinstance(n, (*DEFS, ast.ClassDef))]


def functions(cell):
    "Functions and methods of a cell, each with the name a reader knows it by."
    for n in definitions(cell):
        if isinstance(n, DEFS):
            yield n.name, n
        else:
            yield from ((f"{n.name}.{m.name}", m) for m in n.body if isinstance(m, DEFS))


def calls(cell):
    return [n for n in ast.walk(cell.tree) if isinstance(n, ast.Call)]


def called(call):
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


# ---- every notebook


@rule(ANY)
def has_its_place(nb):
    if nb.name != "index" and nb.room not in ("components", "guides", "course"):
        yield "is neither the index nor in components/, guides/ or course/"


@rule(ANY)
def lines_are_short(nb):
    for c in nb.code:
        for n, line in enumerate(c.source.splitlines(), 1):
            if len(line) > COLUMNS:
                yield f"line {n} of {c} has {len(line)} columns, more than {COLUMNS}"


@rule(ANY)
def parses(nb):
    for c in nb.code:
        try:
            ast.parse(c.python)
        except SyntaxError as e:
            yield f"{c} is not Python: {e}"


@rule(ANY)
def is_small(nb):
    size = nb.path.stat().st_size / 1024
    if size > KILOBYTES:
        yield f"is {size:.0f} KB, more than {KILOBYTES}; are the pictures small?"


@rule(ANY)
def ids_are_unique(nb):
    seen = set()
    for c in nb.cells:
        if not c.id:
            yield f"{c} has no id"
        elif c.id in seen:
            yield f"{c} has the id {c.id} of an earlier cell"
        seen.add(c.id)


@rule(ANY)
def no_widget_state(nb):
    if "widgets" in nb.metadata:
        yield "keeps widget state in its metadata"
    for c in nb.code:
        if any("widget" in kind for o in c.outputs for kind in o.get("data", {})):
            yield f"{c} keeps a widget as its output"


@rule(ANY)
def no_machine_paths(nb):
    path = re.compile(r'(?<![\w.~/-])(?:/(?:home|root|work|tmp|Users|var/folders)\b|[A-Z]:\\\w+\\)[^\s\'"`)]*')
    for c in nb.cells:
        for where, text in (("", c.source), ("the output of ", c.words)):
            if m := path.search(text):
                yield f"{where}{c} names a path of one machine: {m[0]}"


@rule(ANY)
def outputs_are_quiet(nb):
    noise = {
        "a warning": r"\b\w*Warning\b:?",
        "a progress bar": r"\d%\||[█▏▎▍▌▋▊▉]|\bit/s\b|\r",
        "a timing": r"Wall time|CPU times|per loop",
    }
    for c in nb.code:
        if any(o.get("name") == "stderr" for o in c.outputs):
            yield f"the output of {c} holds a stderr stream"
        for what, pattern in noise.items():
            if re.search(pattern, c.words):
                yield f"the output of {c} holds {what}"
        if any(o.get("output_type") == "error" for o in c.outputs):
            yield f"{c} ends in an error"


@rule(ANY)
def imports_are_explicit(nb):
    for c in nb.code:
        if any(isinstance(n, ast.ImportFrom) and n.names[0].name == "*" for n in ast.walk(c.tree)):
            yield f"{c} imports *: name what you import"


@rule(ANY)
def is_not_skipped(nb):
    if nb.name.startswith("_"):
        yield "starts with an underscore, so nbdev skips it silently"
    if any(p.name == ".notest" for p in nb.path.parent.iterdir()):
        yield "lies beside a file .notest, so nbdev skips it silently"
    for c in nb.cells[:2]:
        if not c.code and re.search(r"^\s*-?\s*skip_exec\s*:", c.source, re.M):
            yield f"{c} says skip_exec, so nbdev skips it silently"


@rule(ANY)
def links_lead_somewhere(nb):
    for c in nb.markdown:
        for target in re.findall(r"\]\((?!https?:|mailto:|#|data:)([^)#\s]+)", c.source):
            if not (nb.path.parent / target).exists():
                yield f"{c} links to {target}, which does not exist"


@rule(ANY)
def pictures_keep_a_fixed_scale(nb):
    "No min-max of an anomaly map; `# min-max on purpose: why` beside the code allows what teaches, or what is no map."
    hot = re.compile(r"\b(a|amap|anomal\w*|score\w*|error\w*|err|heat\w*|residual\w*)\b")
    for c in nb.code:
        for n in ast.walk(c.tree):
            if isinstance(n, ast.BinOp) and not is_on_purpose(c, n):
                left = ast.unparse(n.left)
                if isinstance(n.op, ast.Sub) and is_own(n.right, left, ("min", "amin", "nanmin")):
                    yield f"{c} subtracts the own minimum of {left}: a fixed scale is needed"
                if (
                    isinstance(n.op, ast.Div)
                    and hot.search(left)
                    and is_own(n.right, left, ("max", "amax", "nanmax", "ptp"))
                ):
                    yield f"{c} divides {left} by its own maximum: a fixed scale is needed"
        for n in calls(c):
            words = {k.arg for k in n.keywords}
            fixed = {"vmin", "vmax"} <= words or words & {"norm", None} or is_on_purpose(c, n)
            if called(n) in ("imshow", "pcolormesh", "matshow") and not fixed:
                yield f"{c} calls {called(n)} without vmin and vmax, which stretches each picture by its own range"


def is_on_purpose(cell, node):
    "Does a comment beside the code say that it stretches on purpose?"
    return "min-max on purpose:" in "\n".join(cell.python.splitlines()[node.lineno - 1 : node.end_lineno])


def is_own(node, name, methods):
    "Is `node` the call NAME.min(...) or np.min(NAME, ...) of the array called `name`?"
    if not isinstance(node, ast.Call) or called(node) not in methods:
        return False
    owner = node.func.value if isinstance(node.func, ast.Attribute) else None
    return name in {ast.unparse(n) for n in [owner, *node.args[:1]] if n is not None}


# ---- chapters: length and proportion


@rule(COMPONENT)
def cells_are_short(nb):
    for c in nb.code:
        has = definitions(c) if c.exported else []
        if all(isinstance(n, ast.Import | ast.ImportFrom) for n in c.tree.body):
            continue  # one import a line, as many as there are
        limit = CLASS if any(isinstance(n, ast.ClassDef) for n in has) else FUNCTION if has else OTHER
        if c.length > limit:
            yield f"{c} has {c.length} lines, more than {limit}"


@rule(COMPONENT)
def module_is_short(nb):
    lines = [line.strip() for c in nb.exported for line in c.python.splitlines()]
    count = sum(bool(line) and not line.startswith("#") for line in lines)
    if count > MODULE:
        yield f"exports {count} lines, more than {MODULE}: split the chapter"


@rule(COMPONENT)
def a_class_is_in_one_cell(nb):
    for c in nb.exported:
        for n in c.tree.body:
            for target in getattr(n, "targets", []):
                if isinstance(target, ast.Attribute):
                    yield f"{c} sets {ast.unparse(target)}: a class stands in one cell"


@rule(COMPONENT)
def a_third_is_tested(nb):
    tested = [c for c in nb.code if not c.exported and is_test(c)]
    if len(tested) < TESTED * len(nb.code):
        yield f"{len(tested)} of {len(nb.code)} code cells hold a test, fewer than a third"


def is_test(cell):
    return any(isinstance(n, ast.Assert) for n in ast.walk(cell.tree)) or any(
        called(n).startswith("assert_") for n in calls(cell)
    )


@rule(COMPONENT)
@rule(LESSON)
def prose_keeps_up(nb):
    if len(nb.markdown) < PROSE * len(nb.code):
        yield f"{len(nb.markdown)} Markdown cells for {len(nb.code)} code cells, fewer than {PROSE} for each"


# ---- chapters: form


@rule(COMPONENT)
def starts_with_a_title(nb):
    if not nb.cells or nb.cells[0].kind != "markdown" or not re.match(r"# \S.*\n\n?> \S", nb.cells[0].source):
        yield 'cell 0 must be Markdown that starts "# Name" and then "> one-line subtitle"'
    if "you will build" not in nb.prose.lower():
        yield 'never says "You will build"'


@rule(COMPONENT)
def is_numbered(nb):
    if not re.match(r"\d\d[a-z]?_[a-z_]+$", nb.name):
        yield "must be called NN_name, where name is the module it exports"


@rule(COMPONENT)
def exports_to_its_module(nb):
    said = [c.directives["default_exp"].strip() for c in nb.code if "default_exp" in c.directives]
    if said != [nb.module]:
        yield f"must export to the module of its name, `#| default_exp {nb.module}`, and says {said or 'nothing'}"


@rule(COMPONENT)
def has_its_sections(nb):
    heads = {h.strip().lower() for h in re.findall(r"^##+ (.*)$", nb.prose, re.M)}
    for wanted in ("Exercises", "Paper and this notebook"):
        if wanted.lower() not in heads:
            yield f'has no section "{wanted}"'
    if not any(re.search(r"\bNext\b.*\]\([^)]+\)", c.source) for c in nb.markdown[-2:]):
        yield "does not end with a Next link"


@rule(COMPONENT)
def exercises_are_complete(nb):
    from exercises import find

    found = find(nb)
    if not 2 <= len(found) <= 3:
        yield f"has {len(found)} exercises; two or three are wanted"
    for e in found:
        yield from (
            f"exercise {e.number} has no {part}" for part in ("start", "check", "answer") if not getattr(e, part)
        )


# ---- chapters: exported code


@rule(COMPONENT)
def exported_code_is_plain_python(nb):
    for c in nb.code:
        for n in ast.walk(c.tree):
            names = (
                [a.name for a in n.names]
                if isinstance(n, ast.Import)
                else [n.module or ""]
                if isinstance(n, ast.ImportFrom)
                else []
            )
            for name in names:
                if c.exported and name.split(".")[0] in ("fastcore", "nbdev", "execnb"):
                    yield f"{c} exports code that needs {name}"
                if name == "fastcore.test":
                    yield f"{c} tests with fastcore.test, which passes on broadcast shapes"


@rule(COMPONENT)
def exports_are_documented(nb):
    for c in nb.exported:
        comments = comment_lines(c.python)
        for n in definitions(c):
            if n.name.startswith("_") or "exporti" in c.directives:
                continue
            if not ast.get_docstring(n):
                yield f"{c}: {n.name} has no docstring"
            if isinstance(n, DEFS):
                yield from undocumented(c, n.name, parameters(n), comments)
                continue
            for m in n.body:
                if isinstance(m, DEFS) and m.name == "__init__":
                    yield from undocumented(c, n.name, parameters(m), comments)
            if "dataclass" in " ".join(map(ast.unparse, n.decorator_list)):
                yield from undocumented(
                    c, n.name, [(m.target.id, m, m) for m in n.body if isinstance(m, ast.AnnAssign)], comments
                )


def parameters(function):
    "(name, node, default) of each parameter but self and cls."
    a = function.args
    plain = [*a.posonlyargs, *a.args]
    pairs = [
        *zip(plain, [None] * (len(plain) - len(a.defaults)) + a.defaults),
        (a.vararg, None),
        *zip(a.kwonlyargs, a.kw_defaults),
        (a.kwarg, None),
    ]
    return [(p.arg, p, d or p) for p, d in pairs if p is not None and p.arg not in ("self", "cls")]


def comment_lines(source):
    "Line numbers with a comment, as a dict: does the comment stand alone?"
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (tokenize.TokenError, SyntaxError):
        return {}
    return {
        t.start[0]: not t.line[: t.start[1]].strip()
        for t in tokens
        if t.type == tokenize.COMMENT and len(t.string.strip("# ")) > 2
    }


def undocumented(cell, owner, found, comments):
    "A sentence for each parameter without a comment of its own beside or above it (help= of a command counts)."
    last = {}
    for name, _, end in found:
        last[end.end_lineno] = name
    for name, node, end in found:
        beside = end.end_lineno in comments and last[end.end_lineno] == name
        if beside or comments.get(node.lineno - 1) or "help=" in ast.unparse(node) + ast.unparse(end):
            continue
        yield f"{cell}: parameter {name} of {owner} has no comment that says what it is"


# ---- guides


@rule(GUIDE)
@rule(LESSON)
def guide_starts_with_a_title(nb):
    if not nb.cells or nb.cells[0].kind != "markdown" or not re.match(r"# \S.*\n\n?> \S", nb.cells[0].source):
        yield 'cell 0 must be Markdown that starts "# Name" and then "> one-line subtitle"'


@rule(GUIDE)
@rule(LESSON)
def guide_exports_nothing(nb):
    for c in nb.code:
        if c.exported or "default_exp" in c.directives:
            yield f"{c} exports: a guide uses the package, and code that others need belongs into it"


@rule(GUIDE)
def guide_is_short(nb):
    if len(nb.cells) > GUIDE_CELLS:
        yield f"has {len(nb.cells)} cells, more than {GUIDE_CELLS}"


@rule(GUIDE)
@rule(LESSON)
def guide_cells_are_short(nb):
    for c in nb.code:
        if c.length > OTHER:
            yield f"{c} has {c.length} lines, more than {OTHER}"


# ---- lessons


@rule(LESSON)
def lesson_has_its_form(nb):
    if not re.match(r"\d\d_[a-z_]+$", nb.name):
        yield "must be called NN_name"
    if not any(re.search(r"\bNext\b.*\]\([^)]+\)", c.source) for c in nb.markdown[-2:]):
        yield "does not end with a Next link"
    if "glossary.md#" not in nb.prose:
        yield "links no term to the glossary"


@rule(LESSON)
def lesson_is_short(nb):
    read = [c for c in nb.code if "hide" not in c.directives and not re.search(r"^# Check \d", c.source, re.M)]
    lines = [line.strip() for c in read for line in c.python.splitlines()]
    count = sum(bool(line) and not line.startswith("#") for line in lines)
    if count > LESSON_LINES:
        yield f"has {count} lines of code to read, more than {LESSON_LINES}"


@rule(LESSON)
def lesson_has_its_exercises(nb):
    from exercises import find

    kinds = re.findall(r"\*\*Exercise \d+ \(([^)]+)\)\.\*\*", nb.prose)
    if tuple(kinds) != KINDS:
        yield f"has the exercises {', '.join(kinds) or 'none'}; wanted, in this order: {', '.join(KINDS)}"
    for e in find(nb):
        wanted = ("start",) if kinds[e.number - 1 : e.number] == ["open"] else ("start", "check", "answer")
        yield from (f"exercise {e.number} has no {part}" for part in wanted if not getattr(e, part))
        lines = [line for line in e.answer.splitlines() if line.strip()]
        if "answer" in wanted and e.answer and len(lines) < 3:
            yield f"the answer of exercise {e.number} has {len(lines)} lines only"
