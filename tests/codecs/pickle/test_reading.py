"""The pickle reader: the standard library is the oracle for what is plain, the rest is refused."""

from __future__ import annotations

import contextlib
import pickle
import pickletools
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from porter.codecs.pickle import reading, window
from porter.codecs.pickle.names import COMMON
from porter.codecs.pickle.reading import Unpickler
from porter.codecs.pickle.values import Blob, Global, HeldBytes, Opaque, Text, put
from porter.errors import InputError
from porter.storage.input_file import InputFile

PROTOCOLS = (2, 3, 4, 5)


def load(data: bytes, **options: Any) -> Any:
    """Read a pickle that is held in memory."""
    return Unpickler(HeldBytes(data, "x"), 0, len(data), COMMON, **options).load()


def plain(value: Any) -> Any:
    """Put long strings in place of the positions where they lie."""
    if type(value) is Text:
        return value.read().decode()
    if type(value) is Blob:
        return value.read()
    if type(value) in (list, tuple):
        return type(value)(plain(item) for item in value)
    if type(value) is dict:
        return {key: plain(item) for key, item in value.items()}
    return value


ATOMS = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.sampled_from(["x" * 5000, b"y" * 5000, "", "é" * 200])
)
KEYS = st.text(max_size=8) | st.integers(-300, 70000) | st.tuples(st.integers(), st.text())
VALUES = st.recursive(
    ATOMS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=4)
    ),
    max_leaves=20,
)


@pytest.mark.parametrize("protocol", PROTOCOLS[1:])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(value=VALUES)
def test_plain_values_are_read_as_pickle_reads_them(protocol: int, value: Any) -> None:
    """Whatever plain value is pickled, by any protocol, is read as the standard library does."""
    found = plain(load(pickle.dumps(value, protocol)))
    assert found == pickle.loads(pickle.dumps(value, protocol))
    assert repr(found) == repr(value)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(value=st.dictionaries(st.text(max_size=9), st.integers() | st.text(max_size=9)))
def test_values_of_protocol_2_are_read(value: dict[str, Any]) -> None:
    """Protocol 2, which has no bytes, gives what was written."""
    assert load(pickle.dumps(value, 2)) == value


@pytest.mark.parametrize("framing", ["whole", "frames"])
def test_windows_and_frames_meet_at_any_byte(framing: str, tmp_path: Path) -> None:
    """A pickle longer than every window is read the same, wherever windows and frames end."""
    value = {f"name.{i}": ("x" * (i % 97), i, float(i), b"b" * (i % 3000)) for i in range(4000)}
    data = pickle.dumps(value, 4)
    if framing == "whole":
        data = pickletools.optimize(data)
    for shift in (0, 1, 7, 16, 255):
        path = tmp_path / "p"
        path.write_bytes(b"." * shift + data + b"tail")
        file = InputFile(path)
        reader = Unpickler(file, shift, shift + len(data), COMMON)
        assert plain(reader.load()) == value
        assert reader.offset == shift + len(data)


def test_long_strings_stay_in_the_file(tmp_path: Path) -> None:
    """A long byte string is a position at which its bytes are, and is not read."""
    payload = bytes(range(256)) * 4096
    path = tmp_path / "p"
    path.write_bytes(pickle.dumps({"a": payload, "b": "é" * 70000}, 4))
    file = InputFile(path)
    tree = Unpickler(file, 0, file.size, COMMON).load()
    assert type(tree["a"]) is Blob
    assert file.pread(tree["a"].offset, tree["a"].nbytes) == payload
    assert type(tree["b"]) is Text
    assert tree["b"].nbytes == 140000


@pytest.mark.parametrize("protocol", [2, 4])
def test_every_cut_is_refused(protocol: int) -> None:
    """No prefix of a pickle is taken for a pickle."""
    data = pickle.dumps(
        {"a": [1, 2.5, "x", (None, True)], "b": {"c": 70000, "d": 1 << 40}}, protocol
    )
    assert load(data)
    for end in range(len(data)):
        with pytest.raises(InputError):
            load(data[:end])


def test_only_known_opcodes_are_run() -> None:
    """Every byte that is no opcode of a weight file is refused, with its name if it has one."""
    names = {ord(op.code): op.name for op in pickletools.opcodes}
    refused = [code for code, run in enumerate(reading._HANDLERS) if run is Unpickler.unknown]
    assert len(refused) == 256 - 48
    for code in refused:
        with pytest.raises(InputError, match=names.get(code, "no opcode") + r"\)"):
            load(b"\x80\x04" + bytes([code]) + b"\0" * 16 + b".")


def test_message_tells_the_byte(tmp_path: Path) -> None:
    """The position in the message is that of the opcode, also when the window has moved."""
    path = tmp_path / "p"
    body = b"\x80\x02(" + b"K\x01" * 3000 + b"B" + struct.pack("<I", 9000) + b"z" * 9000
    path.write_bytes(body + b"cos\nsystem\n.")
    file = InputFile(path)
    with pytest.raises(InputError) as caught:
        Unpickler(file, 0, file.size, COMMON, where="data.pkl").load()
    message = "names os.system, which a program needs and a weight file does not"
    expected = f"{path}: data.pkl byte {len(body)}: {message}"
    assert str(caught.value) == expected


REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no pickle of protocol"),
    "protocol 0": (b"(dp0\n.", "no pickle of protocol"),
    "protocol 6": (b"\x80\x06N.", "protocol is not 2 to 5"),
    "protocol twice": (b"\x80\x02\x80\x02N.", "stated twice"),
    "no stop": (b"\x80\x02N", "ends before its STOP"),
    "argument cut": (b"\x80\x02J\x01", "ends before its STOP"),
    "two values": (b"\x80\x02NN.", "unfinished"),
    "no value": (b"\x80\x02.", "unfinished"),
    "open mark": (b"\x80\x02(N.", "unfinished"),
    "mark missing": (b"\x80\x02Nt.", "empty stack"),
    "stack empty": (b"\x80\x02\x85.", "empty stack"),
    "pair of one": (b"\x80\x02N\x86.", "empty stack"),
    "triple of two": (b"\x80\x02NN\x87.", "empty stack"),
    "memo unset": (b"\x80\x02h\x07.", "memo 7"),
    "memo unset, far": (b"\x80\x02j\x07\0\0\0.", "memo 7"),
    "memo of nothing": (b"\x80\x02q\0.", "empty stack"),
    "text cut": (b"\x80\x02X\xff\xff\xff\xffab.", "4294967295 bytes announced, 3 left"),
    "short text cut": (b"\x80\x02X\5\0\0\0ab.", "5 bytes announced, 3 left"),
    "long bytes cut": (b"\x80\x03B\x88\x13\0\0" + b"b" * 10, "5000 bytes announced, 10 left"),
    "bytes cut": (b"\x80\x04\x8e" + b"\xff" * 8 + b".", "announced, 1 left"),
    "not UTF-8": (b"\x80\x02X\x01\0\0\0\xff.", "not UTF-8"),
    "surrogate": (b"\x80\x02X\x03\0\0\0\xed\xa0\x80.", "not UTF-8"),
    "integer of letters": (b"\x80\x02Iabc\n.", "integer is malformed"),
    "integer of a mile": (b"\x80\x02I" + b"1" * 30 + b"\n.", "integer is malformed"),
    "line without end": (b"\x80\x02c" + b"a" * 400 + b".", "cut short or too long"),
    "unknown name": (
        b"\x80\x02cos\nsystem\n.",
        "os.system, which a program needs and a weight file does not",
    ),
    "dotted name": (b"\x80\x04\x8c\x08builtins\x8c\x09set.union\x93.", "builtins.set.union"),
    "name of a number": (b"\x80\x04K\x01K\x02\x93.", "not text"),
    "name of a list": (b"\x80\x04\x8c\x02os]\x93.", "not text"),
    "module of a list": (b"\x80\x04]\x8c\x02os\x93.", "not text"),
    "made of a text": (b"\x80\x02X\1\0\0\0a)\x81.", "calls a text, which is not a name"),
    "dictionary made with a list": (
        b"\x80\x02ccollections\nOrderedDict\n]\x81.",
        "not with a tuple",
    ),
    "call of a text": (b"\x80\x02X\x01\0\0\0a)R.", "calls a text, which is not a name"),
    "call with a list": (b"\x80\x02cbuiltins\nset\n]R.", "not with a tuple"),
    "call with names": (
        b"\x80\x04ccollections\nOrderedDict\n)X\1\0\0\0aNs\x92.",
        "not a dictionary",
    ),
    "made with names": (
        b"\x80\x04ccollections\nOrderedDict\n)}X\1\0\0\0aNs\x92.",
        "with named arguments",
    ),
    "named by a list": (b"\x80\x04cbuiltins\nset\n)]\x92.", "not a dictionary"),
    "item of a list": (b"\x80\x02]NNs.", "not a dictionary"),
    "odd items": (b"\x80\x02}(Nu.", "key without a value"),
    "append to a dictionary": (b"\x80\x02}Na.", "not a list"),
    "add to a list": (b"\x80\x04](N\x90.", "not a set"),
    "state of a list": (b"\x80\x02]Nb.", "which has none"),
    "state of a name": (b"\x80\x02cbuiltins\nset\nNb.", "which has none"),
    "attributes of a dictionary": (b"\x80\x02}Nb.", "not a dictionary"),
    "key twice": (b"\x80\x02}(X\1\0\0\0aNX\1\0\0\0aNu.", "the key a is set twice"),
    "key is a list": (b"\x80\x02}]Ns.", "a list as the key"),
    "key is a dictionary": (b"\x80\x02}}Ns.", "a dictionary as the key"),
    "key is nested": (b"\x80\x02})\x85Ns.", "a tuple as the key"),
    "key is long": (b"\x80\x02}X" + struct.pack("<I", 5000) + b"k" * 5000 + b"Ns.", "longer than"),
    "key is a long tuple": (b"\x80\x02}(" + b"N" * 17 + b"tNs.", "a tuple as the key"),
    "outside": (b"\x80\x02NQ.", "outside of the pickle"),
    "frame in a frame": (
        b"\x80\x04\x95" + b"\x0b" + b"\0" * 7 + b"\x95" + b"\0" * 8 + b"N.",
        "inside",
    ),
    "frame past the end": (b"\x80\x04\x95\xff" + b"\0" * 7 + b"N.", "255 bytes announced"),
    "frame in an opcode": (b"\x80\x04\x95\x02" + b"\0" * 7 + b"M\1\1.", "inside an opcode"),
    "frame past STOP": (b"\x80\x04\x95\x04" + b"\0" * 7 + b"N.NN", "frame unfinished"),
    "frame cut by bytes": (
        b"\x80\x04\x95\x03" + b"\0" * 7 + b"B" + struct.pack("<I", 2000) + b"x" * 2000 + b".",
        "inside an opcode",
    ),
    "bytearray of a size": (b"\x80\x02cbuiltins\nbytearray\nK\x05\x85R.", "else than bytes"),
    "bytearray of all": (b"\x80\x02cbuiltins\nbytearray\nNNN\x87R.", "else than bytes"),
    "tuple of a text": (b"\x80\x02cbuiltins\ntuple\nX\1\0\0\0a\x85R.", "makes a tuple of"),
    "tuple of many": (b"\x80\x02cbuiltins\ntuple\n](" + b"N" * 65 + b"e\x85R.", "makes a tuple of"),
    "dictionary of a number": (b"\x80\x02ccollections\nOrderedDict\nK\1\x85R.", "something else"),
    "dictionary of no pairs": (b"\x80\x02ccollections\nOrderedDict\n]K\1a\x85R.", "not pairs"),
    "encode by another": (b"\x80\x02c_codecs\nencode\nX\1\0\0\0aX\5\0\0\0utf-8\x86R.", "otherwise"),
    "encode a number": (b"\x80\x02c_codecs\nencode\nK\1X\6\0\0\0latin1\x86R.", "otherwise"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_malformed_pickle_is_refused(name: str) -> None:
    """A stream that breaks a rule is refused with that rule."""
    data, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        load(data)


def test_names_are_exact_pairs() -> None:
    """A name is found in the table by module and name, or not at all."""
    for module, name in COMMON:
        assert "." not in name
        for wrong in ((module, name + "_"), (module + ".x", name), (name, module)):
            if wrong in COMMON:  # datetime.datetime
                continue
            line = f"c{wrong[0]}\n{wrong[1]}\n".encode()
            with contextlib.suppress(InputError):
                found = load(b"\x80\x02" + line + b".")
                assert (found.make, found.value) == (None, None)


def test_name_is_looked_up_each_time_it_changes() -> None:
    """Two names one after the other are two names, and one name again is the same row."""
    text = b"\x80\x02(cargparse\nNamespace\ncpathlib\nPath\ncargparse\nNamespace\ncos\nsystem\n"
    with pytest.raises(InputError, match=r"os\.system"):
        load(text + b"t.")
    first, second, again = load(text[: text.rindex(b"cos")] + b"t.")
    assert first is again is COMMON["argparse", "Namespace"]
    assert second is COMMON["pathlib", "Path"]


def test_names_across_the_end_of_a_window_are_told_apart() -> None:
    """Thousands of names, some of which one window ends in, are each what they are."""
    names = ["OrderedDict", "Counter", "deque", "defaultdict"] * 3000
    lines = b"".join(f"ccollections\n{name}\n".encode() for name in names)
    assert [found.name for found in load(b"\x80\x02(" + lines + b"t.")] == names


@pytest.mark.parametrize(
    ("data", "kind", "parts"),
    [
        (
            b"\x80\x02ctorch.nn.modules.linear\nLinear\n)\x81}b.",
            "torch.nn.modules.linear.Linear",
            [{}],
        ),
        (b"\x80\x02c__main__\nMeters\n)\x81Na.", "__main__.Meters", [None]),
        (b"\x80\x02c__main__\nConfig\n)\x81NK\x01s.", "__main__.Config", [None, 1]),
        (b"\x80\x04c__main__\nTags\n)\x81(K\x02\x90.", "__main__.Tags", [2]),
        (b"\x80\x02cfunctools\npartial\n)R)R.", "functools.partial", []),
        (b"\x80\x04\x8c\x08__main__\x8c\x09Outer.Phs\x93)R.", "__main__.Outer.Phs", []),
    ],
)
def test_unknown_classes_are_kept_and_never_looked_up(
    data: bytes, kind: str, parts: list[Any]
) -> None:
    """A class of the training script becomes its name and what was set on it."""
    found = load(data)
    assert (found.kind, found.parts) == (kind, parts)


@pytest.mark.parametrize("opcode", [b"]", b"}", b"\x8f", b"\x8c\x02ab", b"C\x02ab", b"N\x85"])
def test_objects_are_limited_by_the_size_of_the_file(opcode: bytes) -> None:
    """A pickle that makes very many objects is refused, though each takes a few bytes only."""
    count = reading.FREE_OBJECTS * 2
    with pytest.raises(InputError, match="objects out of a small file"):
        Unpickler(
            HeldBytes(b"\x80\x04(" + opcode * count + b"t.", "x"), 0,
            3 + len(opcode) * count + 2, COMMON, file_size=1000,
        ).load()  # fmt: skip


def test_a_dictionary_made_of_another_is_a_copy() -> None:
    """What is added to the copy is not in the first one."""
    first, second = load(
        b"\x80\x02}q\x01X\1\0\0\0aNsccollections\nOrderedDict\nh\x01\x85RX\1\0\0\0bNs\x86."
    )
    assert (first, second) == ({"a": None}, {"a": None, "b": None})


def test_copies_of_a_large_dictionary_are_counted() -> None:
    """Each copy costs as many objects as it has entries."""
    items = b"".join(b"M" + struct.pack("<H", i) + b"N" for i in range(60_000))
    copies = b"ccollections\nOrderedDict\nh\x01\x85R" * 2000
    data = b"\x80\x02}q\x01(" + items + b"u(" + copies + b"t."
    with pytest.raises(InputError, match="objects out of a small file"):
        load(data)


def test_inert_values_are_kept_and_not_made() -> None:
    """Objects that are no tensors become descriptions of themselves."""
    import argparse
    import collections
    import datetime
    import pathlib

    value = {
        "args": argparse.Namespace(lr=0.1),
        "day": datetime.date(2020, 1, 2),
        "path": pathlib.PurePosixPath("/etc"),
        "counts": collections.Counter("aab"),
        "defaults": collections.defaultdict(list, {"a": [1]}),
        "ordered": collections.OrderedDict(a=1, b=2),
        "set": {1},
        "frozen": frozenset((1,)),
        "number": 1 + 2j,
    }
    for protocol in PROTOCOLS:
        tree = load(pickle.dumps(value, protocol))
        assert repr(tree["args"]) == "argparse.Namespace"
        assert all(type(tree[key]) is Opaque for key in ("args", "day", "path", "set", "frozen"))
        assert tree["args"].parts[-1] == {"lr": 0.1}
        if protocol >= 4:
            assert tree["set"].parts == list(tree["frozen"].arguments) == [1]
        assert tree["counts"] == {"a": 2, "b": 1}
        assert tree["defaults"] == {"a": [1]}
        assert list(tree["ordered"].items()) == [("a", 1), ("b", 2)]


def test_python_2_strings_are_text_where_they_can_be() -> None:
    """Python 2's byte strings are read by the encoding given, and stay bytes where it fails."""
    assert load(b"\x80\x02U\x02ab.") == "ab"
    assert load(b"\x80\x02T\x02\0\0\0\xe9b.") == b"\xe9b"
    assert load(b"\x80\x02T\x02\0\0\0\xe9b.", encoding="latin-1") == "éb"
    assert load(b"\x80\x02I4294967296\n.") == 1 << 32
    assert load(b"\x80\x02I-9223372036854775808\n.") == -1 << 63
    with pytest.raises(InputError, match="an integer is malformed"):
        load(b"\x80\x02I-92233720368547758080\n.")


def test_what_is_long_is_told_by_one_byte() -> None:
    """Texts of 4,096 bytes and byte strings of 1,024 are kept, longer ones stay where they are."""
    for size, kind in ((4096, str), (4097, Text)):
        assert type(load(b"\x80\x02X" + struct.pack("<I", size) + b"a" * size + b".")) is kind
    for size, kind in ((1024, bytes), (1025, Blob)):
        assert type(load(b"\x80\x03B" + struct.pack("<I", size) + b"a" * size + b".")) is kind
    for size, kind in ((1024, str), (1025, Blob)):
        assert type(load(b"\x80\x02T" + struct.pack("<I", size) + b"a" * size + b".")) is kind


def test_python_2_ordered_dictionary_is_read_once() -> None:
    """A list of pairs makes a dictionary; a second use of the list would copy it again."""
    pairs = b"\x80\x02(ccollections\nOrderedDict\nq\0](](X\1\0\0\0aK\1ee\x85"
    assert load(pairs + b"Rt.") == ({"a": 1},)
    again = pairs.replace(b"]((", b"]q\1((", 1).replace(b"](](", b"]q\1(](") + b"Rh\0h\1\x85Rt."
    with pytest.raises(InputError, match="not pairs"):
        load(again)


def test_nested_keys_are_refused_before_they_are_hashed() -> None:
    """A tuple of tuples as a key, which takes 2**60 steps to hash, is refused at once."""
    bomb = b"\x80\x02}(" + b")" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(60)) + b"Nu."
    begin = time.monotonic()
    with pytest.raises(InputError, match="as the key"):
        load(bomb)
    assert time.monotonic() - begin < 1


def test_messages_do_not_spell_out_structures() -> None:
    """What is refused is named by its kind: its text could be endless."""
    laughs = b"\x80\x02]q\0" + b"".join(
        b"]q%c(%se" % (i, b"h%c" % (i - 1) * 10) for i in range(1, 40)
    )
    begin = time.monotonic()
    for end in (b")R.", b"h\x27Q.", b"NNs.", b"Nb.", b"}h\x27Ns."):
        with pytest.raises(InputError):
            load(laughs + end, persistent=_refuse_everything)
    assert time.monotonic() - begin < 1


def _refuse_everything(value: object) -> object:
    raise InputError(f"refers to {reading.described(value)}")


def test_opcodes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle with more opcodes than any weight file is refused."""
    monkeypatch.setattr(reading, "MOST_OPCODES", 1000)
    assert load(b"\x80\x02" + b"(" * 500 + b"t" * 500 + b".")
    with pytest.raises(InputError, match="more opcodes"):
        load(b"\x80\x02" + b"(" * 5000 + b"t" * 5000 + b".")


def test_opcodes_are_counted_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are looked at where the first window ends, but for what an opcode may need."""
    data = b"\x80\x02" + b"(" * 2000 + b"t" * 2000 + b"."
    count = 2 * window._SMALLEST_WINDOW - window.MARGIN + 1
    monkeypatch.setattr(reading, "MOST_OPCODES", count)
    assert load(data)
    monkeypatch.setattr(reading, "MOST_OPCODES", count - 1)
    with pytest.raises(InputError, match="more opcodes"):
        load(data)


def test_message_without_a_place_begins_with_the_byte() -> None:
    """A file that is a pickle itself has no member to name."""
    for data, message in ((b"N.", "byte 0: no pickle"), (b"\x80\x02NNs.", "byte 4: takes from")):
        with pytest.raises(InputError) as caught:
            load(data)
        assert caught.value.message.startswith(message)


def test_bytes_are_counted_without_long_strings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a pickle has besides its arrays is bounded; the arrays are not."""
    monkeypatch.setattr(window, "LARGEST_PICKLE", 3000)
    assert load(pickle.dumps([b"x" * 50_000] * 3, 4))
    with pytest.raises(InputError, match="longer than any"):
        load(pickle.dumps(list(range(5000)), 4))


def test_put_keeps_what_is_hashable() -> None:
    """Plain keys and flat tuples of them are keys; equal ones are refused even as 1 and True."""
    target: dict[Any, Any] = {}
    put(target, [("a", 1), (1, 2), (("b", 3), 4), (Global("m", "n"), 5)])
    assert len(target) == 4
    with pytest.raises(InputError, match="set twice"):
        put(target, [(True, 1)])
    put(target, [(tuple(range(16)), 6)])
    for key in ((1, (2,)), tuple(range(17))):
        with pytest.raises(InputError, match="a tuple as the key"):
            put(target, [(key, 0)])


class _Changing(HeldBytes):
    """Bytes that change under the reader's hands."""

    def pread(self, offset: int, nbytes: int) -> bytes:
        """Return bytes of the beginning, and fail behind it."""
        if offset > 100:
            raise InputError("changed while it was being read", self.path)
        return super().pread(offset, nbytes)


def test_errors_of_the_file_are_left_as_they_are() -> None:
    """What the file itself says is wrong is not put down to a byte of the pickle."""
    data = pickle.dumps([b"x" * 5000] * 9, 4)
    with pytest.raises(InputError) as caught:
        Unpickler(_Changing(data, "x"), 0, len(data), COMMON, where="data.pkl").load()
    assert str(caught.value) == "x: changed while it was being read"


def test_a_number_has_one_sign() -> None:
    """A line of two minus signs is not an integer."""
    data = b"\x80\x02}X\x01\x00\x00\x00aI--5\ns."
    with pytest.raises(InputError, match="an integer is malformed"):
        load(data)
