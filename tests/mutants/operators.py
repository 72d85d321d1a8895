"""Mutants of a module: each is one small change of its text.

Messages, docstrings, annotations, imports, decorators, asserts and Protocol classes stay as they
are.
"""

import ast
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    # The boundary, and the opposite.
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
}
SIGNS: dict[type[ast.AST], str] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Is: "is",
    ast.IsNot: "is not",
    ast.In: "in",
    ast.NotIn: "not in",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.And: "and",
    ast.Or: "or",
    ast.Add: "+",
    ast.Sub: "-",
}
NAMES = {"max": "min", "min": "max", "any": "all", "all": "any"}
# None as their argument is a TypeError, which says nothing about the tests.
PLAIN = {"isinstance", "len", "str", "int", "float", "list", "tuple", "set", "dict", "max", "min"}
TYPES = {"Literal", "Callable", "Annotated", "Union", "Optional"}
# `strict` of zip: without it the same happens for lists of one length.
SILENT_KEYWORDS = {"strict"}


@dataclass(frozen=True)
class Mutant:
    """One change: `text` replaces the bytes from `start` to `end` of the module's source.

    `module` is a path. `line` is the text of the line that changes, `number` its number.
    `where` names the scope, `function` the outermost function around it, or is empty.
    """

    module: str
    where: str
    function: str
    number: int
    line: str
    change: str
    start: int
    end: int
    text: str

    @property
    def id(self) -> str:
        """The same while scope, line and change are the same, wherever the line stands."""
        place = "\n".join((self.module, self.where, self.line, self.change))
        return hashlib.sha256(place.encode()).hexdigest()[:10]

    def apply(self, source: bytes) -> bytes:
        return source[: self.start] + self.text.encode() + source[self.end :]


def mutants_of(module: str, source: bytes, messages: Sequence[str]) -> list[Mutant]:
    """Return the mutants of a module in the order of its lines.

    `messages` names the functions whose arguments are texts for people.
    """
    search = _Search(module, source, frozenset(messages))
    tree = ast.parse(source)
    search.block(tree.body)
    statements = [search.lines_of(statement) for statement in tree.body]
    seen: Counter[tuple[str, ...]] = Counter()
    found = list[Mutant]()
    for mutant in sorted(search.found, key=lambda one: (one.start, one.end)):
        # Only the statement of the module that changes. The others compile as before.
        (around,) = (one for one in statements if one[0] <= mutant.start < one[1])
        if not _compiles(mutant.apply(source[: around[1]])[around[0] :]):
            continue
        place = (mutant.where, mutant.line, mutant.change)
        seen[place] += 1
        twice = f" ({seen[place]})" if seen[place] > 1 else ""
        found.append(replace(mutant, change=mutant.change + twice))
    return found


def _compiles(source: bytes) -> bool:
    try:
        compile(source, "mutant", "exec")
    except SyntaxError:
        return False
    return True


@dataclass
class _Search(ast.NodeVisitor):
    module: str
    source: bytes
    messages: frozenset[str]
    found: list[Mutant] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lines = self.source.splitlines(keepends=True)
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line))
        self.scope: list[str] = []
        self.function = ""
        # The names that the function has bound, each with the first line that binds it.
        self.bound: list[dict[str, int]] = [{}]

    # -- text

    def lines_of(self, statement: ast.stmt) -> tuple[int, int]:
        """Return the begin and the end of a module's statement, with its decorators."""
        decorators: list[ast.expr] = getattr(statement, "decorator_list", [])
        first = min(node.lineno for node in (statement, *decorators))
        return self.starts[first - 1], self.starts[statement.end_lineno or first]

    def span(self, node: ast.AST) -> tuple[int, int]:
        return (
            self.starts[node.lineno - 1] + node.col_offset,  # type: ignore[attr-defined]
            self.starts[node.end_lineno - 1] + node.end_col_offset,  # type: ignore[attr-defined]
        )

    def text(self, node: ast.AST) -> str:
        start, end = self.span(node)
        return " ".join(self.source[start:end].decode().split())

    def add(self, change: str, text: str, start: int, end: int) -> None:
        number = self.source.count(b"\n", 0, start) + 1
        line = self.lines[number - 1].decode().strip()
        where = ".".join(self.scope)
        place = (self.module, where, self.function, number, line)
        self.found.append(Mutant(*place, change, start, end, text))

    def swap(self, node: ast.AST, change: str, text: str) -> None:
        self.add(change, text, *self.span(node))

    def instead(self, node: ast.expr, change: str, new: ast.expr) -> None:
        self.swap(node, change, f"({ast.unparse(new)})")

    # -- statements

    def block(self, body: Sequence[ast.stmt]) -> None:
        for statement in body:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                continue
            self.visit(statement)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        if any(ast.unparse(base).split("[")[0].endswith("Protocol") for base in node.bases):
            return
        self.scope.append(node.name)
        self.block(node.body)
        self.scope.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.scope.append(node.name)
        outer, self.function = self.function, self.function or ".".join(self.scope)
        arguments = node.args
        bound = {
            argument.arg: node.lineno
            for argument in ast.walk(arguments)
            if isinstance(argument, ast.arg)
        }
        for name in ast.walk(node):
            if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store):
                bound[name.id] = min(name.lineno, bound.get(name.id, name.lineno))
        self.bound.append(bound)
        for default in (*arguments.defaults, *arguments.kw_defaults):
            if default is not None:
                self.visit(default)
        self.block(node.body)
        self.bound.pop()
        self.scope.pop()
        self.function = outer

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Import(self, node: ast.Import | ast.ImportFrom | ast.Assert) -> None:
        pass

    visit_ImportFrom = visit_Assert = visit_Import

    def visit_Expr(self, node: ast.Expr) -> None:
        if self.is_message(node.value) or isinstance(node.value, ast.Yield | ast.YieldFrom):
            return
        self.swap(node, "drop the statement", "pass")
        self.visit(node.value)

    def visit_Raise(self, node: ast.Raise) -> None:
        self.swap(node, "drop the statement", "pass")

    def visit_Delete(self, node: ast.Delete) -> None:
        self.swap(node, "drop the statement", "pass")

    def visit_Assign(self, node: ast.Assign) -> None:
        names = [
            name
            for target in node.targets
            for name in ast.walk(target)
            if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store) and name.id != "_"
        ]
        if any(name.id == "__slots__" for name in names):
            return
        # A name that has no other value would be a NameError.
        if all(self.bound[-1].get(name.id, node.lineno) < node.lineno for name in names):
            self.swap(node, "drop the statement", "pass")
        self.visit(node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.swap(node, "drop the statement", "pass")
        self.visit(node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is None:
            self.swap(node, "drop the statement", "pass")
            return
        # None instead of False, 0 or () has the same effect on most callers.
        if not isinstance(node.value, ast.Constant) and ast.unparse(node.value) != "()":
            self.swap(node, "return None", "return None")
        self.visit(node.value)

    def visit_Break(self, node: ast.Break) -> None:
        self.swap(node, "break -> continue", "continue")

    def visit_Continue(self, node: ast.Continue) -> None:
        self.swap(node, "continue -> break", "break")

    def visit_With(self, node: ast.With | ast.AsyncWith) -> None:
        for item in node.items:
            self.visit(item.context_expr)
        if all(item.optional_vars is None for item in node.items):
            self.header(node, node.body, "drop the with", "if True:")
        self.block(node.body)

    visit_AsyncWith = visit_With

    def header(self, node: ast.AST, body: Sequence[ast.stmt], change: str, text: str) -> None:
        """Replace everything from the start of a node to its first statement."""
        indent = " " * body[0].col_offset
        self.add(change, f"{text}\n{indent}", self.span(node)[0], self.span(body[0])[0])

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        kinds = node.type.elts if isinstance(node.type, ast.Tuple) else []
        for kind in kinds:
            rest = ", ".join(ast.unparse(other) for other in kinds if other is not kind)
            assert node.type is not None
            self.swap(node.type, f"drop {ast.unparse(kind)}", f"({rest},)")
        self.block(node.body)

    def visit_match_case(self, node: ast.match_case) -> None:
        end = self.span(node.guard or node.pattern)[1]
        self.add("drop the case", f"{' and' if node.guard else ' if'} False", end, end)
        if node.guard:
            self.condition(node.guard)
            self.visit(node.guard)
        self.visit(node.pattern)
        self.block(node.body)

    def visit_If(self, node: ast.If | ast.While) -> None:
        self.condition(node.test)
        self.visit(node.test)
        self.block(node.body)
        self.block(node.orelse)

    visit_While = visit_If

    # -- expressions

    def condition(self, test: ast.expr) -> None:
        """Negate a condition, unless another operator has the same result."""
        opposite = isinstance(test, ast.Compare) and len(test.ops) == 1
        negation = isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
        if not (opposite or negation or isinstance(test, ast.Constant)):
            self.instead(test, "negate the condition", ast.UnaryOp(ast.Not(), test))

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.condition(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self.condition(test)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        for place, old in enumerate(node.ops):
            for new in COMPARISONS[type(old)]:
                operators = [*node.ops[:place], new(), *node.ops[place + 1 :]]
                changed = ast.Compare(node.left, operators, node.comparators)
                self.instead(node, f"{SIGNS[type(old)]} -> {SIGNS[new]}", changed)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        other = ast.Or if isinstance(node.op, ast.And) else ast.And
        change = f"{SIGNS[type(node.op)]} -> {SIGNS[other]}"
        self.instead(node, change, ast.BoolOp(other(), node.values))
        for dropped in node.values:
            rest = [value for value in node.values if value is not dropped]
            new = rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)
            self.instead(node, f"drop `{self.text(dropped)}`", new)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            self.instead(node, "drop not", node.operand)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        other = {ast.Add: ast.Sub, ast.Sub: ast.Add}.get(type(node.op))
        if other is not None:
            change = f"{SIGNS[type(node.op)]} -> {SIGNS[other]}"
            self.instead(node, change, ast.BinOp(node.left, other(), node.right))
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if not (isinstance(node.value, ast.Name) and node.value.id in TYPES):
            self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load) and node.id in NAMES:
            self.swap(node, f"{node.id} -> {NAMES[node.id]}", NAMES[node.id])

    def visit_Constant(self, node: ast.Constant) -> None:
        for new in _other_values(node.value):
            self.swap(node, f"{node.value!r} -> {new!r}", repr(new))

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        # Python 3.11 has wrong positions inside. A text with spaces is a message.
        if " " not in self.text(node):
            self.swap(node, f"{self.text(node)} -> ''", "''")

    def is_message(self, node: ast.expr) -> bool:
        """True for a call whose arguments are texts for people: `say`, or an error."""
        function = node.func if isinstance(node, ast.Call) else None
        name = getattr(function, "attr", getattr(function, "id", ""))
        return name in self.messages or name.endswith("Error")

    def visit_Call(self, node: ast.Call) -> None:
        if self.is_message(node):
            return
        if ast.unparse(node.func) not in PLAIN:
            self.arguments(node)
        self.visit(node.func)
        for argument in node.args:
            self.visit(argument)
        for keyword in node.keywords:
            if keyword.arg not in SILENT_KEYWORDS:
                self.visit(keyword.value)

    def arguments(self, node: ast.Call) -> None:
        for place, argument in enumerate(node.args, 1):
            if not isinstance(argument, ast.Constant | ast.Starred | ast.GeneratorExp):
                self.swap(argument, f"argument {place} -> None", "None")
        for keyword in node.keywords:
            if keyword.arg is not None and keyword.arg not in SILENT_KEYWORDS:
                rest = [other for other in node.keywords if other is not keyword]
                new = ast.Call(node.func, node.args, rest)
                self.swap(node, f"drop {keyword.arg}=", ast.unparse(new))


def _other_values(value: object) -> Iterator[object]:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, value - 1)
    elif isinstance(value, float):
        yield value + 1
    elif isinstance(value, str) and value and " " not in value:
        yield ""
