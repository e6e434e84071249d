"""The house rules that a machine can hold: who may import whom, who may print, and how large a file may grow."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {"inrwsi": "inrwsi", "formats": "inrwsi.formats", "cli": "inrwsi.cli", "benchmarks": "benchmarks"}
MOST_LINES = 450

# From the bottom up; a name stands for its submodules too, and the longest name that fits decides.
LAYERS = (
    ("inrwsi", "inrwsi.errors", "inrwsi.geometry", "inrwsi.config", "inrwsi.progress"),
    tuple(f"inrwsi.formats.{name}" for name in ("byterange", "container", "header", "index", "layout", "writer")),
    (
        *("inrwsi.formats", "inrwsi.fields", "inrwsi.coding", "inrwsi.device", "inrwsi.metrics", "inrwsi.tissue"),
        *("inrwsi.sample", "inrwsi.sample_noise", "inrwsi.sample_paint", "inrwsi.sample_scene"),
        *("inrwsi.resample", "inrwsi.job", "inrwsi.memory", "inrwsi.lru", "inrwsi.colour", "inrwsi.workers"),
        "inrwsi.nuclei",
    ),
    (
        "inrwsi.fit",
        "inrwsi.tiles",
        "inrwsi.octave_choices",
        "inrwsi.octave_chunks",
        "inrwsi.octave_tiles",
        "inrwsi.options",
    ),
    (
        *("inrwsi.encode", "inrwsi.encode_common", "inrwsi.encode_fields", "inrwsi.encode_octaves"),
        *("inrwsi.encode_bases", "inrwsi.encode_tiles"),
        *("inrwsi.encode_fit", "inrwsi.encode_sample", "inrwsi.encode_units", "inrwsi.rate_control", "inrwsi.decode"),
    ),
    (
        *("inrwsi.associated", "inrwsi.slide", "inrwsi.slide_file", "inrwsi.slide_levels", "inrwsi.slide_parts"),
        *("inrwsi.export", "inrwsi.compare"),
    ),
    ("inrwsi.bridges", "inrwsi.serve", "inrwsi.data"),
    ("inrwsi.cli", "benchmarks", "inrwsi.benchmarks"),
)
LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names}
GPU_ONLY = {"triton", "tinycudann"}
NEVER = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "tests"}


def files() -> dict[str, Path]:
    """Module name to file, of everything but the tests."""
    found = {}
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join((package, *(p for p in parts if p != "__init__")))] = path
    return found


FILES = files()


def layer(module: str) -> int:
    """The layer of the longest known name that is `module` or holds it."""
    parts = module.split(".")
    for count in range(len(parts), 0, -1):
        name = ".".join(parts[:count])
        # The package itself is a layer of its own name alone: a module nobody has placed must not slip in by it.
        if name in LAYER_OF and (name != "inrwsi" or module == "inrwsi"):
            return LAYER_OF[name]
    raise LookupError(f"{module} is in no layer; place it in LAYERS")


def imports(module: str, tree: ast.Module, *, top_level: bool = False) -> Iterator[str]:
    """Names of the modules that are imported, at any depth or only by the import of the module itself."""
    for node in _import_time(tree) if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level == 1 and module.startswith("benchmarks."):  # benchmarks is also inrwsi.benchmarks
                yield ".".join(filter(None, ("benchmarks", node.module)))
                continue
            assert node.level == 0, f"{module} line {node.lineno}: relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in FILES else str(node.module)


def _import_time(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when the module is imported: not inside functions, not under TYPE_CHECKING."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        yield child
        yield from _import_time(child)


def import_violations(module: str, source: str) -> list[str]:
    """What `module` imports against the rules, one sentence each."""
    tree = ast.parse(source)
    found = []
    for name in imports(module, tree):
        top = name.split(".")[0]
        if top in ("inrwsi", "benchmarks") and layer(name) > layer(module):
            found.append(f"{module} imports {name}, which is above it")
        if top in GPU_ONLY and not module.startswith("inrwsi.fields.backends"):
            found.append(f"{module} imports {top}, which only fields/backends may")
        if top in NEVER:
            found.append(f"{module} imports {top}")
        if top == "torch" and module.startswith("inrwsi.formats"):
            found.append(f"{module} imports torch")
        if top in ("torch", "openslide", "click", "rich") and layer(module) <= 1:
            found.append(f"{module} imports {top}, and is a base of everything")
        if top in ("click", "rich") and layer(module) < layer("inrwsi.cli"):
            found.append(f"{module} imports {top}, which is for the command line")
    if module.startswith("inrwsi.cli"):
        heavy = {"torch", "numba", "inrwsi.encode", "inrwsi.decode", "inrwsi.sample", "inrwsi.formats.source"}
        heavy |= {"inrwsi.export", "inrwsi.compare", "inrwsi.serve", "inrwsi.data"}
        found += [f"{module} imports {n} at its top" for n in imports(module, tree, top_level=True) if n in heavy]
    return found


def call_violations(module: str, source: str) -> list[str]:
    """What `module` calls against the rules, one sentence each."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name in ("eval", "exec", "torch.load", "torch.save", "compile"):
            found.append(f"{module} line {node.lineno}: calls {name}")
        # What makes a prior or measures, on a machine that may have no command line installed, prints for itself.
        quiet = not module.startswith(("inrwsi.cli", "benchmarks", "inrwsi.fit.prior", "inrwsi.fit.release"))
        if quiet and name in ("print", "exit", "quit", "sys.exit", "os._exit", "click.echo"):
            found.append(f"{module} line {node.lineno}: calls {name}, which only the command line may")
        if any(k.arg == "allow_pickle" for k in node.keywords):
            found.append(f"{module} line {node.lineno}: allow_pickle")
    return found


@pytest.mark.parametrize("module", FILES)
def test_file_keeps_the_rules(module: str) -> None:
    source = FILES[module].read_text(encoding="utf-8")
    assert import_violations(module, source) == []
    assert call_violations(module, source) == []
    assert source.count("\n") <= MOST_LINES


def test_every_folder_is_looked_at() -> None:
    for module in ("inrwsi.errors", "inrwsi.formats.header", "inrwsi.cli.main", "benchmarks.demo", "inrwsi.fit"):
        assert module in FILES


@pytest.mark.parametrize(
    ("module", "source", "sentence"),
    [
        ("inrwsi.geometry", "from inrwsi.formats.header import Header", "inrwsi.formats.header, which is above it"),
        (
            "inrwsi.formats.container",
            "def f():\n    from inrwsi.decode import Decoder",
            "inrwsi.decode, which is above",
        ),
        ("inrwsi.formats.container", "from inrwsi.formats import source", "inrwsi.formats.source, which is above"),
        ("inrwsi.fields.grid", "import inrwsi.fit.tables", "inrwsi.fit.tables, which is above"),
        ("inrwsi.decode", "from inrwsi.cli import main", "inrwsi.cli.main, which is above"),
        ("inrwsi.encode", "import benchmarks.measure", "benchmarks.measure, which is above"),
        ("inrwsi.formats.source", "def f():\n    import torch", "imports torch"),
        ("inrwsi.formats.container", "import openslide", "is a base of everything"),
        ("inrwsi.cli.info", "from inrwsi.decode import Decoder", "inrwsi.decode at its top"),
        ("inrwsi.cli.info", "import torch.nn, torch", "torch at its top"),
        ("inrwsi.fields.encodings", "import tinycudann as tcnn", "only fields/backends may"),
        ("inrwsi.job", "import pickle", "imports pickle"),
        ("inrwsi.decode", "from rich.progress import track", "for the command line"),
    ],
)
def test_import_rules_catch_what_they_should(module: str, source: str, sentence: str) -> None:
    assert any(sentence in found for found in import_violations(module, source))


def test_import_rules_let_pass_what_they_should() -> None:
    assert import_violations("inrwsi.cli.decode", "def f():\n    from inrwsi.decode import Decoder") == []
    assert import_violations("inrwsi.fields.backends.tcnn", "def f():\n    import tinycudann") == []
    assert import_violations("inrwsi.cli.info", "if TYPE_CHECKING:\n    from inrwsi.decode import Decoder") == []
    with pytest.raises(LookupError, match=r"inrwsi\.newcomer is in no layer"):
        import_violations("inrwsi.newcomer", "import inrwsi.errors")


def test_call_rules_catch_what_they_should() -> None:
    source = "print(1)\nsys.exit(2)\neval('3')\ntorch.load(f)\nnp.load(f, allow_pickle=True)\n"
    assert [found.split(": ")[1][:12] for found in call_violations("inrwsi.encode", source)] == [
        "calls print,",
        "calls sys.ex",
        "calls eval",
        "calls torch.",
        "allow_pickle",
    ]
    assert call_violations("inrwsi.cli.main", "print(1)\nsys.exit(2)") == []
