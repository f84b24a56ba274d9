"""Names with holes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from porter.errors import TableError
from porter.mapping.matching import find
from porter.mapping.pattern import Pattern


def test_a_hole_matches_one_number() -> None:
    """Holes take whole numbers and nothing beyond their separators."""
    pattern = Pattern("block{stage}.{i}.attn.q")
    assert pattern.match("block2.11.attn.q") == {"stage": "2", "i": "11"}
    for name in ("block.1.attn.q", "block2.x.attn.q", "block2.1.2.attn.q", "block2.01.attn.q"):
        assert pattern.match(name) is None


def test_a_limited_hole_takes_its_words_alone() -> None:
    """`{n:0,3}` takes 0 and 3, `{n:fc1,fc2}` those words."""
    assert Pattern("conv.{n:0,3}").match("conv.3") == {"n": "3"}
    assert Pattern("conv.{n:0,3}").match("conv.30") is None
    assert Pattern("mlp.{n:fc1,fc2}").match("mlp.fc2") == {"n": "fc2"}


def test_a_moved_hole_shifts_both_ways() -> None:
    """`{s+1}` writes one more and reads one less; below zero it does not match."""
    pattern = Pattern("layers.{s+1}.downsample")
    assert pattern.format({"s": "2"}) == "layers.3.downsample"
    assert pattern.match("layers.3.downsample") == {"s": "2"}
    assert pattern.match("layers.0.downsample") is None


def test_a_number_may_count_steps() -> None:
    """`{3i+1}` writes 1, 4, 7 and reads nothing else; listed, it keeps apart from `{3i}`."""
    pattern = Pattern("net.{3i+1}.w")
    assert [pattern.format({"i": str(i)}) for i in range(3)] == ["net.1.w", "net.4.w", "net.7.w"]
    assert pattern.match("net.7.w") == {"i": "2"}
    assert [pattern.match(f"net.{n}.w") for n in (0, 2, 6, 8)] == [None] * 4
    listed = Pattern("net.{3i+1}").limited({"i": ("0", "2")})
    assert listed.text == "net.{3i+1:0,2}"
    assert [listed.match(f"net.{n}") for n in (1, 4, 7)] == [{"i": "0"}, None, {"i": "2"}]
    assert not listed.overlaps(Pattern("net.{3i:0,1,2}"))
    assert listed.fixed({"i": "2"}).text == "net.7"
    for wrong in ("a.{0i}", "a.{1i}", "a.{3i:x}"):
        with pytest.raises(TableError):
            Pattern(wrong)


@given(st.integers(0, 99), st.sampled_from(["fc1", "fc2"]), st.integers(-2, 2), st.integers(1, 4))
def test_what_is_made_is_matched(i: int, word: str, shift: int, step: int) -> None:
    """A name made from values gives the values back."""
    hole = (str(step) if step > 1 else "") + (f"i{shift:+d}" if shift else "i")
    pattern = Pattern(f"a.{{{hole}}}.{{w:fc1,fc2}}.b")
    values = {"i": str(i), "w": word}
    if i * step + shift >= 0:
        assert pattern.match(pattern.format(values)) == values


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("a.{i}", "a.{j}", True),
        ("a.{i}.b", "a.{n:0,3}.{x:b,c}", True),
        ("a.{i}.b", "a.{n:0,3}.{x:c,d}", False),
        ("norm{s}", "norm", False),
        ("block{s}.{i}", "block1.{i}", True),
        ("block{s}.{i}", "block1{s}.{i}", True),
        ("a{i}b", "a1{j}b", True),
        ("a.{i}", "b.{i}", False),
        ("a.{n:x,y}", "a.{i}", False),
    ],
)
def test_overlaps_are_seen(one: str, other: str, expected: bool) -> None:
    """Two patterns overlap exactly if some name fits both."""
    assert Pattern(one).overlaps(Pattern(other)) is expected
    assert Pattern(other).overlaps(Pattern(one)) is expected


@pytest.mark.parametrize("text", ["a.{i", "a}.b", "a.{}", "a.{I}", "a.{i}{j}", "a.{.*}"])
def test_malformed_patterns_are_refused(text: str) -> None:
    """Braces that make no hole are a table error."""
    with pytest.raises(TableError):
        Pattern(text)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("1".join(f"{{{c}}}" for c in "abcdefghij") + "x", "1" * 60 + "y"),
        ("a".join(f"{{{c}:a,aa}}" for c in "bcdefghijklm") + "x", "a" * 30 + "y"),
    ],
)
def test_ambiguous_names_are_matched_in_bounded_time(text: str, name: str) -> None:
    """Placeholders with digits or their own words between them do not try all ways to match."""
    pattern = Pattern(text)
    assert pattern.match(name) is None
    assert pattern.match(name[:-1] + "x") is not None


def test_too_many_ways_to_match_are_an_error() -> None:
    """Where a repeated placeholder makes the ways many, it is said which name."""
    names = [f"{{{c}}}" for c in "abcdefgh"]
    pattern = Pattern("1".join([*names, *names]) + "x")
    with pytest.raises(TableError, match="too many ways"):
        pattern.match("1" * 80 + "y")


_AMBIGUOUS = [
    "{i}1{j}",
    "{i}1{j}1{i}",
    "a{w:x,xy}y{v:y,yz}z",
    "{i}0{w:1,12}2{j}",
    "{i:1,11}1{j}1{i}",
]


@given(st.sampled_from(_AMBIGUOUS), st.text("a01xyz2", max_size=9))
def test_the_matcher_finds_what_a_regular_expression_finds(text: str, name: str) -> None:
    """Both ways to match agree about every name."""
    pattern = Pattern(text)
    match = pattern._regex.fullmatch(name)
    assert find(pattern.parts, name) == (None if match is None else match.groupdict())


def test_long_numbers_are_no_numbers() -> None:
    """Numbers that no integer needs do not match, and cannot be written in a table."""
    assert Pattern("a.{i}").match("a." + "9" * 5000) is None
    assert Pattern("a.{i+1}").match("a." + "9" * 5000) is None
    with pytest.raises(TableError, match="malformed"):
        Pattern("a.{i+" + "9" * 5000 + "}")


def test_long_names_are_compared() -> None:
    """The length of a name is not limited by recursion."""
    long = "a" * 5000
    assert Pattern(long + "{i}b").overlaps(Pattern(long + "1{j}b"))
    assert not Pattern(long + "{i}b").overlaps(Pattern(long + "{i}c"))
    with pytest.raises(TableError, match="combinations"):
        Pattern("a".join(f"{{{c}:x,y,z}}" for c in "bcdefghijklmnop"))
