"""Models of other people: parsed, recognised without a framework, built in a child process."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from porter.errors import InputError, MissingPackage, UsageError
from porter.frameworks import build_reference, references
from porter.frameworks.published.transformers import transformers
from porter.frameworks.references import Provider, parse, with_framework

MODEL = """
from helper import WIDTH
from {package} import nn

def build(depth=1):
    return [WIDTH, depth]
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "helper.py").write_text("WIDTH = 3\n")
    (tmp_path / "net.py").write_text(MODEL.format(package="paddle"))
    return tmp_path / "net.py"


def test_references_have_three_spellings(model: Path) -> None:
    """Files, modules and providers are told apart, and options are values of JSON or texts."""
    file = parse(f"{model}:build?depth=2&kind=deep")
    module = parse("package.module:Class")
    provider = parse("timm:resnet50?features_only=true&out=[1,2]")
    assert (file.place, file.name, dict(file.options)) == (
        str(model), "build", {"depth": 2, "kind": "deep"},
    )  # fmt: skip
    assert (module.place, module.name, module.framework) == ("package.module", "Class", "")
    assert (provider.framework, dict(provider.options)) == (
        "torch", {"features_only": True, "out": [1, 2]},
    )  # fmt: skip


@pytest.mark.parametrize("text", ["resnet50", "a.py:", ":b", "timm:x?width", "timm:x?a b=1"])
def test_malformed_references_are_refused(text: str) -> None:
    """A reference without a model or with options that are none is a usage error."""
    with pytest.raises((UsageError, InputError)):
        parse(text)


def test_a_table_names_providers_only(model: Path) -> None:
    """Code that a table names is never run."""
    with pytest.raises(UsageError, match="providers only"):
        parse(f"{model}:build", code=False)
    assert parse("paddle.vision:resnet50", code=False).framework == "paddle"


def test_the_framework_is_the_first_that_the_code_imports(model: Path) -> None:
    """Neither torch nor paddle is loaded to find out which one a file uses."""
    assert with_framework(parse(f"{model}:build")).framework == "paddle"


def test_code_without_a_framework_is_refused(tmp_path: Path) -> None:
    """A file that imports neither framework, or fails, is named with the reason."""
    path = tmp_path / "plain.py"
    path.write_text("def build():\n    return 1\n")
    with pytest.raises(InputError, match="neither torch nor paddle"):
        with_framework(parse(f"{path}:build"))
    path.write_text("import no_such_package\n")
    with pytest.raises(InputError, match="no_such_package"):
        with_framework(parse(f"{path}:build"))


def test_a_file_is_built_with_its_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model file imports the modules in its folder, and errors of its code are one line."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "neighbour.py").write_text("WIDTH = 3\n")
    path = tmp_path / "net.py"
    path.write_text("import neighbour\ndef build(depth=1):\n    return neighbour.WIDTH // depth\n")
    assert build_reference.build(**parse(f"{path}:build").request) == 3
    with pytest.raises(InputError, match="ZeroDivisionError"):
        build_reference.build(**parse(f"{path}:build?depth=0").request)


def test_a_file_of_a_package_keeps_its_relative_imports(tmp_path: Path) -> None:
    """`from . import sizes` works where the file is part of a package."""
    folder = tmp_path / "porter_test_zoo"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "sizes.py").write_text("WIDTH = 5\n")
    (folder / "net.py").write_text("from . import sizes\nclass Net:\n    width = sizes.WIDTH\n")
    assert build_reference.build(**parse(f"{folder / 'net.py'}:Net").request).width == 5


def test_other_packages_bring_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry point of the group adds a provider, and cannot replace one of porter's."""
    entry = EntryPoint("zoo", "porter_plugin:ZOO", references.GROUP)
    monkeypatch.setattr(EntryPoint, "load", lambda self: Provider("paddle", "zoo.models:build"))
    monkeypatch.setattr(references, "entry_points", lambda group: [entry])
    references.providers.cache_clear()
    try:
        assert parse("zoo:small").framework == "paddle"
        assert parse("timm:small").framework == "torch"
    finally:
        references.providers.cache_clear()


def test_a_configuration_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """transformers is asked for a file only, never for an address."""
    path = tmp_path / "config.json"
    with pytest.raises((InputError, MissingPackage)):
        transformers(str(path))
