"""The rules of the code's structure, read from its syntax trees: who may import whom, what is nowhere, what is everywhere."""

import ast
import keyword
from collections.abc import Iterator
from pathlib import Path

import pytest

import ucl
from ucl.cli import COMMANDS

ROOT = Path(ucl.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# Imports point down only, also inside functions: a module imports modules of its own layer or of a lower one.
LAYERS: dict[str, int] = {
    "ucl.errors": 0, "ucl.stop": 0, "ucl.keys": 0, "ucl.dist": 0, "ucl.device": 0, "ucl.context": 0, "ucl.formats": 0,
    "ucl.fields": 1, "ucl.stage_settings": 1, "ucl.method_settings": 1, "ucl.profeat_settings": 1,
    "ucl.settings": 1, "ucl.samples": 1, "ucl.artifacts": 1, "ucl.store": 1, "ucl.decode": 1, "ucl.listing": 1, "ucl.images": 1, "ucl.views": 1,
    "ucl.models": 1, "ucl.networks": 1, "ucl.batches": 1, "ucl.layouts": 1, "ucl.weights": 1, "ucl.pretrained": 1,
    "ucl.sources": 1, "ucl.pixels": 1, "ucl.packing": 1, "ucl.safepoints": 1,
    "ucl.samplers": 1, "ucl.agreement": 1, "ucl.kmeans": 1, "ucl.pca": 1, "ucl.targets": 1,
    "ucl.names": 1, "ucl.foreign": 1, "ucl.tabular": 1, "ucl.rows": 1, "ucl.memory": 1, "ucl.matrix": 1, "ucl.minibatch": 1, "ucl.pic": 1,
    "ucl.argmax": 1, "ucl.blur": 1, "ucl.labelled": 1, "ucl.strong": 1, "ucl.agree": 1, "ucl.confidence": 1, "ucl.search": 1, "ucl.stored": 1,
    "ucl.nearby": 1,
    "ucl.extract": 2, "ucl.cluster": 2, "ucl.objectives": 2, "ucl.purify": 2, "ucl.train_epoch": 2, "ucl.export": 2, "ucl.evaluate": 2,
    "ucl.convert": 2, "ucl.select": 2, "ucl.align": 2, "ucl.diff": 2, "ucl.neighbors": 2,
    "ucl.methods": 3,
    "ucl.run": 4, "ucl.rundir": 4,       # a run directory knows how long its plan is, so it stands above methods
    "ucl.front": 5, "ucl.commands": 5,
    "ucl.cli": 6, "ucl.__main__": 6,
}
VERBS = ("ucl.extract", "ucl.cluster", "ucl.purify", "ucl.train_epoch", "ucl.evaluate", "ucl.export", "ucl.convert", "ucl.select", "ucl.align",
         "ucl.diff", "ucl.neighbors")
# What is still to be mended; an entry that is no longer needed fails too.
LONG: set[str] = set()
SILENT: set[str] = set()
TRUTH = {"ucl.commands.evaluate", "ucl.front.evaluation", "ucl.commands.targets", "ucl.front.walking", "ucl.evaluate.truth",
         "ucl.commands.select", "ucl.evaluate.profile"}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {module_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def is_typing_block(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those for type checkers only."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not is_typing_block(child):
            yield from walk(child)


def imports(module: str) -> set[str]:
    """Every module that this one imports, anywhere; `from a import b` counts as a.b where that is a module."""
    found: set[str] = set()
    for node in walk(TREES[module]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            for alias in node.names:
                if (node.module, alias.name) == ("ucl", "__version__"):
                    continue
                full = f"{node.module}.{alias.name}"
                found.add(full if full in TREES else str(node.module))
    return found


def layer(module: str) -> int | None:
    while module:
        if module in LAYERS:
            return LAYERS[module]
        module = module.rpartition(".")[0]
    return None


def packages(module: str) -> set[str]:
    return {name.split(".")[0] for name in imports(module)}


def attributes(module: str) -> set[str]:
    """Dotted names as they are written: torch.cuda.is_available."""
    found = set()
    for node in walk(TREES[module]):
        if isinstance(node, ast.Attribute):
            parts, at = [], node
            while isinstance(at, ast.Attribute):
                parts.append(at.attr)
                at = at.value  # type: ignore[assignment]
            if isinstance(at, ast.Name):
                found.add(".".join([at.id, *reversed(parts)]))
    return found


def calls(module: str) -> set[str]:
    found = set()
    for node in walk(TREES[module]):
        if isinstance(node, ast.Call):
            found.add(ast.unparse(node.func))
    return found


def test_the_walk_sees_what_it_should() -> None:
    """The rules below would pass on an empty tree."""
    assert len(TREES) > 60
    assert "ucl.formats._h5" in TREES
    assert "ucl.rundir" in imports("ucl.commands.status")               # inside a function
    assert "ucl.artifacts" in imports("ucl.run") or "ucl.store" in imports("ucl.run")
    assert any(a.startswith("torch.cuda.") for a in attributes("ucl.device"))
    assert "json.dumps" in calls("ucl.commands.status")


@pytest.mark.parametrize("module", sorted(set(TREES) - {"ucl"}))
def test_imports_point_down(module: str) -> None:
    mine = layer(module)
    assert mine is not None, f"{module} is in no layer: add it to LAYERS"
    for name in imports(module):
        if name.split(".")[0] != "ucl":
            continue
        if name == "ucl":
            assert {a for a in attributes(module) if a.startswith("ucl.")} == {"ucl.__version__"}
            continue
        other = layer(name)
        assert other is not None, f"{module} imports {name}, which is in no layer"
        assert other <= mine, f"{module} (layer {mine}) imports {name} (layer {other})"


@pytest.mark.parametrize("module", [m for m in TREES if m.startswith(VERBS)])
def test_no_verb_imports_a_verb(module: str) -> None:
    own = next(v for v in VERBS if module == v or module.startswith(v + "."))
    assert not [name for name in imports(module) if name.startswith(VERBS) and not (name == own or name.startswith(own + "."))]


def users(*names: str) -> set[str]:
    """Modules that import one of these packages or modules."""
    return {m for m in TREES if any(i == n or i.startswith(n + ".") for i in imports(m) for n in names)}


def test_h5py_only_in_formats() -> None:
    assert users("h5py")
    assert all(m.startswith("ucl.formats") for m in users("h5py"))


def test_typer_and_rich_only_at_the_top() -> None:
    assert "ucl.cli" in users("typer", "rich", "click")
    assert all(m == "ucl.cli" or m.startswith(("ucl.commands", "ucl.front")) for m in users("typer", "rich", "click"))


def test_torch_distributed_only_in_dist() -> None:
    assert users("torch.distributed") <= {"ucl.dist"}
    assert {m for m in TREES if any("distributed" in a.split(".") for a in attributes(m))} <= {"ucl.dist"}


def test_torch_cuda_only_in_device() -> None:
    assert users("torch.cuda", "torch.backends.cudnn") <= {"ucl.device"}
    assert {m for m in TREES if any(a.startswith("torch.") and {"cuda", "cudnn"} & set(a.split(".")) for a in attributes(m))} == {"ucl.device"}


def test_matplotlib_only_in_plots() -> None:
    assert users("matplotlib", "seaborn") <= {"ucl.plots", "ucl.report"}


def test_plans_and_settings_are_torch_free() -> None:
    for module in TREES:
        if module.endswith("settings") or module in ("ucl.context", "ucl.rundir", "ucl.errors", "ucl.stop") or module.startswith("ucl.methods"):
            assert not packages(module) & {"torch", "torchvision", "numpy", "h5py", "faiss", "scipy", "sklearn"}, module


def test_truth_enters_by_evaluate_and_targets_only() -> None:
    assert users("ucl.targets")
    assert users("ucl.targets") <= TRUTH
    assert users("ucl.sources.truth") == {"ucl.targets"}                # the label files of released data sets
    assert users("ucl.evaluate") <= TRUTH | {m for m in TREES if m.startswith("ucl.evaluate")}
    walking = {n.module for f in ast.walk(TREES["ucl.front.walking"]) if isinstance(f, ast.FunctionDef) and f.name != "_digits"
               for n in ast.walk(f) if isinstance(n, ast.ImportFrom)}
    assert "ucl.targets" not in walking                                 # in run, nothing but the table of the digits


@pytest.mark.parametrize("module", sorted(TREES))
def test_what_is_nowhere(module: str) -> None:
    said = calls(module)
    assert not said & {"print", "eval", "exec", "os.system", "input", "breakpoint"}, module
    assert not packages(module) & {"pickle", "cPickle", "dill", "cloudpickle", "yaml", "marshal", "shelve", "joblib"}, module
    for node in walk(TREES[module]):
        if isinstance(node, ast.keyword):
            assert node.arg != "shell", f"{module}:{node.value.lineno}: shell="
            assert not (node.arg == "allow_pickle" and not (isinstance(node.value, ast.Constant) and node.value.value is False)), module
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            assert module == "ucl.weights", f"{module}:{node.lineno}: torch.load"
            assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords), module
        if isinstance(node, ast.Assert) and module.startswith("ucl.formats"):
            continue
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{module}:{node.lineno}: bare except"


@pytest.mark.parametrize("module", sorted(TREES))
def test_no_global_random_stream(module: str) -> None:
    """Every draw is keyed: no seeding and no drawing from anybody's global generator."""
    assert not packages(module) & {"random"}, module
    allowed = {"np.random.Generator", "np.random.PCG64", "np.random.Philox", "np.random.SeedSequence", "np.random.default_rng",
               "np.random.MT19937"}
    bad = {a for a in attributes(module) if a.startswith(("np.random.", "numpy.random.")) and a not in allowed}
    assert not bad, (module, bad)
    if module != "ucl.device":  # keyed_stream alone, which puts the stream back
        assert not {a for a in attributes(module) if "default_generator" in a or a.endswith(".manual_seed")}, module
    assert not {c for c in calls(module) if c in ("torch.manual_seed", "torch.seed", "torch.rand", "torch.randn", "torch.randperm",
                                                  "torch.randint", "torch.cuda.manual_seed_all", "np.random.default_rng")
                and not has_generator(module, c)}, module


def has_generator(module: str, call: str) -> bool:
    """Whether every such call in the module names its generator or seed."""
    nodes = [n for n in walk(TREES[module]) if isinstance(n, ast.Call) and ast.unparse(n.func) == call]
    if call == "np.random.default_rng":
        return all(n.args for n in nodes)
    return call not in ("torch.manual_seed", "torch.seed") and all(any(k.arg == "generator" for k in n.keywords) for n in nodes)


@pytest.mark.parametrize("module", sorted(TREES))
def test_public_things_have_docstrings(module: str) -> None:
    tree = TREES[module]
    assert ast.get_docstring(tree), f"{module}: no docstring"
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            name = f"{module}.{node.name}"
            assert bool(ast.get_docstring(node)) is (name not in SILENT), f"{name}: docstring"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_are_short(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert (len(lines) <= 500) is (path.name not in LONG), f"{path.name}: {len(lines)} lines"


def test_one_name_finds_everything() -> None:
    """A command's name is its file in commands/, its work, and its tests."""
    tests = Path(__file__).parent / "cli"
    for name, (module, text, _) in COMMANDS.items():
        assert module == name.replace("-", "_") + ("_" if keyword.iskeyword(name) else "")
        assert (ROOT / "commands" / f"{module}.py").is_file()
        assert (tests / f"test_{module}.py").is_file(), f"no tests/cli/test_{module}.py"
        assert text.endswith(".")
    files = {p.stem for p in (ROOT / "commands").glob("*.py")} - {"__init__"}
    assert files == {module for module, _, _ in COMMANDS.values()}


def test_uclerror_is_caught_at_the_top_only() -> None:
    """cli.main is the only catcher of UclError itself; validate reports it per file."""
    catchers = {m for m in TREES for n in walk(TREES[m]) if isinstance(n, ast.ExceptHandler) and n.type is not None
                and "UclError" in ast.unparse(n.type)}
    assert catchers <= {"ucl.cli", "ucl.commands.validate", "ucl.formats.check"}
