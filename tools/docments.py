"""Comments beside parameters, as chapters write them, turned into field lists that Sphinx prints.

Shapes, units and ranges stand there: `x: Tensor,  # slices (b 1 h w)`. `fields(obj)` reads them from the source of a
function or a class, `markup(text)` makes reStructuredText of words in which only backticks mean something."""

import ast
import inspect
import io
import re
import textwrap
import tokenize

FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def comments(source):
    "Each comment by the number of its line, without the hash."
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip("# ").rstrip() for t in tokens if t.type == tokenize.COMMENT}


def arguments(function):
    "The parameters in the order in which they are written, without self and cls."
    a = function.args
    found = [*a.posonlyargs, *a.args, *filter(None, [a.vararg]), *a.kwonlyargs, *filter(None, [a.kwarg])]
    return [p for p in found if p.arg not in ("self", "cls")]


def of_function(function, said):
    'What is said of each parameter, and of what is returned ("" where nothing is).'
    args, whole = function.args, range(function.lineno, function.body[0].lineno)
    positional = [*args.posonlyargs, *args.args]
    defaults = dict(zip([p.arg for p in positional[::-1]], args.defaults[::-1]))
    defaults |= {p.arg: d for p, d in zip(args.kwonlyargs, args.kw_defaults) if d}
    found, lines = {}, set()
    for p in arguments(function):
        others = [q for q in arguments(function) if q is not p and q.lineno == p.lineno]
        if p.lineno == function.lineno or others:  # the comment of such a line belongs to the whole
            continue
        last = getattr(defaults.get(p.arg), "end_lineno", p.end_lineno)
        mine = next((n for n in (last, p.lineno) if n in said), None)
        lines |= set(range(p.lineno, last + 1))
        if mine is not None:
            found[p.arg] = said[mine]
    return found, " ".join(said[n] for n in whole if n in said and n not in lines)


def of_class(node, said):
    "What is said of the fields of a class, or of the parameters of its `__init__`."
    own = next((n for n in node.body if isinstance(n, FUNCTION) and n.name == "__init__"), None)
    if own:
        return of_function(own, said)[0]
    fields = [n for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
    return {
        n.target.id: said[line]
        for n in fields
        if not n.target.id.startswith("_")
        for line in [next((k for k in range(n.lineno, n.end_lineno + 1) if k in said), None)]
        if line
    }


def read(source):
    "What comments say of the parameters of the one function or class in `source`, and of what it returns."
    source = textwrap.dedent(source)
    node = ast.parse(source).body[0]
    said = comments(source)
    if isinstance(node, FUNCTION):
        return of_function(node, said)
    return (of_class(node, said) if isinstance(node, ast.ClassDef) else {}), ""  # else a lambda


def markup(text):
    "reStructuredText that shows `text` as it is, but for what stands in backticks, which is code."
    parts = re.split(r"(`[^`\n]+`)", text)
    shown = ""
    for i, part in enumerate(parts):
        if i % 2:  # code that touches a letter needs an empty escape between the two
            before = "\\ " if re.search(r"\w$", parts[i - 1]) else ""
            shown += before + f"`{part}`" + ("\\ " if re.match(r"\w", parts[i + 1]) else "")
        else:
            shown += re.sub(r"([*|\\])|(?<=\w)(_)(?!\w)", r"\\\1\2", part)
    return shown


def fields(obj):
    "Lines of a field list for a function or a class; none where its source has no such comments, or is not there."
    try:
        params, returned = read(inspect.getsource(inspect.unwrap(obj)))
    except (OSError, TypeError, SyntaxError, IndexError, tokenize.TokenError):
        return []
    found = [f":param {name}: {markup(words)}" for name, words in params.items()]
    return found + ([f":returns: {markup(returned)}"] if returned else [])


def returned_fields(lines):
    "The docstring's lines with its `Returns:` as a field; Sphinx would take words before a colon for a type."
    text = "\n".join(lines)
    section = re.compile(r"^(Returns|Yields):\n((?:[ ]{2,}\S.*(?:\n|\Z))+)", re.M)
    return section.sub(lambda m: f":{m[1].lower()}: {' '.join(m[2].split())}\n", text).split("\n")


def add_fields(app, what, name, obj, options, lines):
    "For Sphinx's event autodoc-process-docstring."
    marks = [re.match(r"(\s*[*-] )?(.*)", line).groups("") for line in lines]  # those of a list stay
    lines[:] = [mark + markup(line) for mark, line in marks]
    lines[:] = returned_fields(lines)
    told = "\n".join(lines)
    if what in ("function", "method", "class") and not re.search(
        r"^(Args:|Attributes:|:returns:|:yields:)", told, re.M
    ):
        lines += ["", *fields(obj.fget if isinstance(obj, property) else obj), ""]


def skip_member(app, what, name, obj, skip, options):
    "For Sphinx's event autodoc-skip-member: our functions, classes and properties are shown, values are not."
    ours = (getattr(obj, "__module__", "") or "mmccd").startswith("mmccd")  # a library adds methods to its subclasses
    if name.startswith("_") or not ours:
        return True
    shown = inspect.isroutine(obj) or inspect.isclass(obj) or isinstance(obj, property)
    return None if shown else True
