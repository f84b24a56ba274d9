"""Templates: traced once, kept, packed, current."""

from __future__ import annotations

import gzip
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

import porter
from porter.errors import InputError, UsageError
from porter.onnx.export import template as templates
from porter.onnx.export.pack import pack
from porter.onnx.export.stamped import is_sound, stamped
from porter.onnx.export.template import digest, file_name, template
from porter.zoo.architectures import all_variants, find
from porter.zoo.graph_form import GraphForm
from porter.zoo.seeded import seeded

PACKED = Path(porter.__file__).parent / "onnx" / "templates"


@pytest.mark.parametrize(
    "name", sorted(n for n, a in all_variants().items() if a.has_graph and not a.study)
)
def test_a_packed_template_is_current(name: str) -> None:
    """Every published variant's template is packed, and traced from the code that is there now."""
    architecture = find(name)
    expected = file_name(architecture, architecture.image_size)
    assert (PACKED / expected).is_file(), "run `make templates`"
    if architecture.graph.is_free:  # what is exported unless a size is asked for
        assert (PACKED / file_name(architecture, None)).is_file(), "run `make templates`"


def test_no_packed_template_is_stale() -> None:
    """The package holds no template that nothing asks for."""
    packed = [a for a in all_variants().values() if a.has_graph and not a.study]
    wanted = {file_name(a, a.image_size) for a in packed}
    free = {file_name(a, None) for a in packed if a.any_size}
    names = {path.name for path in PACKED.glob("*.gz")}
    assert wanted <= names <= wanted | free
    assert names & free


@pytest.mark.parametrize("name", ["shunted-t", "swin-tiny-w7-224", "deit-tiny-distilled-224"])
def test_every_canonical_tensor_is_accounted_for(name: str) -> None:
    """A tensor is a weight of the graph under its own name, or one that it does not use."""
    architecture = find(name)
    made = template(architecture)
    assert {*made.weights, *made.unused} == set(seeded(architecture))
    assert all(name.endswith("num_batches_tracked") for name in made.unused)
    head = [value for value in made.weights.values() if "classes" in value.dims]
    assert head


@pytest.mark.slow
def test_a_template_is_traced_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """At another image size a template is traced, kept, and then no process is started."""
    monkeypatch.setenv("PORTER_CACHE_DIR", str(tmp_path))
    architecture = find("deit-tiny-224")
    first = template(architecture, image_size=64)
    assert Path(first.path).parent == tmp_path / "templates"
    monkeypatch.setattr(templates, "Worker", None)
    again = template(architecture, image_size=64)
    assert again.model.graph.encode() == first.model.graph.encode()


def test_loading_a_template_imports_no_framework() -> None:
    """A packed template is read without torch and without onnx."""
    code = (
        "import sys; from porter.zoo.architectures import find;"
        "from porter.onnx.export.template import template; template(find('shunted-t'));"
        "print([m for m in ('torch', 'paddle', 'onnx', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_family_without_a_graph_is_refused_by_name() -> None:
    """A variant with neither a reference model nor named outputs has none to trace."""
    with pytest.raises(UsageError, match="needs the graph of pp-formulanet-l"):
        template(replace(find("pp-formulanet-l"), graph=GraphForm()))


def test_a_broken_template_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file in the cache that is no template says so, with the remedy."""
    monkeypatch.setenv("PORTER_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(templates, "_PACKED", tmp_path / "nothing")
    monkeypatch.setattr(templates, "file_name", lambda *args: "bad.onnx.gz")
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "bad.onnx.gz").write_bytes(gzip.compress(b"nonsense"))
    with pytest.raises(InputError, match="delete it"):
        template(find("shunted-t"))


def test_a_template_that_was_edited_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A folder of templates made elsewhere is used as it is, and not with another epsilon."""
    architecture = find("pvtv2-b0")
    (made,) = pack([architecture], tmp_path / "templates")
    monkeypatch.setenv("PORTER_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(templates, "_PACKED", tmp_path / "nothing")
    assert template(architecture).path == made.path
    data = gzip.decompress(Path(made.path).read_bytes())
    assert is_sound(data)
    assert stamped(data) == data
    assert onnx.load_from_string(data).metadata_props[-1].key == "porter.digest"
    found = data.index(b"epsilon")
    edited = data[: found + 8] + bytes([data[found + 8] ^ 1]) + data[found + 9 :]
    for wrong in (edited, data[:-1], data + data[-1:], data[: -len(stamped(b""))]):
        Path(made.path).write_bytes(gzip.compress(wrong))
        with pytest.raises(InputError, match="delete it"):
            template(architecture)


def test_a_comment_does_not_age_a_template(monkeypatch: pytest.MonkeyPatch) -> None:
    """The digest follows what the code does, not how it is written."""
    one = templates._shown(templates.ast.parse("def f(x):\n    return x + 1\n"))
    other = templates._shown(
        templates.ast.parse(
            'from porter.a import b\n\ndef f(x):  # why\n    """Say."""\n    return (x + 1)\n'
        )
    )
    changed = templates._shown(templates.ast.parse("def f(x):\n    return x + 2\n"))
    assert one == other
    assert one != changed
    assert digest(find("shunted-t")) != digest(find("shunted-s"))
