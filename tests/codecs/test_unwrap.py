"""Finding the state dict in what a training script saved."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from porter.codecs import unwrap as unwrapping
from porter.codecs.pickle.values import Global, Opaque
from porter.codecs.unwrap import TRAINING, WRAPPERS, Unwrapped, common_prefix, unwrap
from porter.errors import InputError, PorterError, UsageError
from porter.tensors.lazy import LazyTensor


class T:
    """A tensor of the tree."""

    def __init__(self, number: int = 0, problem: str = "") -> None:
        self.number = number
        self.problem = problem
        self.attributes = None

    def lazy(self) -> LazyTensor:
        """Return a tensor that holds the number."""
        return LazyTensor.of(np.array(self.number))


def leaf(value: Any) -> T | None:
    """Return a tensor when the value is one."""
    return value if type(value) is T else None


def find(tree: Any, key: str | None = None, **options: Any) -> Unwrapped:
    """Unwrap a tree whose leaves are `T`."""
    return unwrap(tree, leaf, key, **options)


def names(tree: Any, key: str | None = None) -> list[str]:
    """Return the names found."""
    return list(find(tree, key).tensors)


SD = {"a.weight": T(), "a.bias": T()}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_known_wrapper_is_taken_off(wrapper: str) -> None:
    """A state dict under a usual key is found, whatever lies beside it."""
    found = find({wrapper: SD, "epoch": 3, "optimizer": {"state": {0: {"m": T()}}}})
    assert (list(found.tensors), found.wrapper) == (list(SD), wrapper)
    assert found.skipped == ("epoch: the value 3", "optimizer: a dictionary with 1 tensors")


def test_order_of_the_wrappers_decides() -> None:
    """Of several state dicts the plain one is taken and the others are named."""
    found = find({"model_ema": SD, "model": {"x": T(1)}, "generator": {"y": T()}})
    assert list(found.tensors) == ["x"]
    assert found.wrapper == "model"
    assert found.others == ("model_ema", "generator")


def test_wrappers_are_taken_off_one_after_the_other() -> None:
    """Nested wrappers, known and unknown, are descended as long as the way is clear."""
    found = find({"checkpoint": {"model": {"state_dict": SD}, "step": 1}})
    assert (list(found.tensors), found.wrapper) == (list(SD), "checkpoint.model.state_dict")
    assert found.skipped == ("checkpoint.step: the value 1",)


def test_only_dictionary_with_tensors_is_taken() -> None:
    """Without a known key, a single dictionary with tensors is the state dict."""
    assert find({"backbone_weights": SD, "meta": {"a": 1}}).wrapper == "backbone_weights"


def test_training_state_is_never_taken() -> None:
    """What belongs to the training is no state dict, even alone."""
    for key in TRAINING:
        with pytest.raises(InputError, match=r"has tensors only under|has no tensors"):
            find({key: SD})
        assert names({key: SD}, key) == list(SD)


def test_several_unknown_parts_are_flattened() -> None:
    """Parts of which none is preferred all come out, their names joined."""
    found = find({"encoder": {"w": T(1)}, "decoder": {"w": T(2)}, "note": "x"})
    assert {name: int(tensor.read()) for name, tensor in found.tensors.items()} == {
        "encoder.w": 1,
        "decoder.w": 2,
    }
    assert (found.wrapper, found.skipped) == ("", ("note: the text x",))


def test_tensors_beside_dictionaries_are_flattened_with_them() -> None:
    """Where tensors stand directly, the dictionary is the state dict, with all that is in it."""
    found = find({"a": T(), "inner": {"b": T(), "deep": {"c": T()}}, "optimizer": {"m": T()}})
    assert list(found.tensors) == ["a", "inner.b", "inner.deep.c"]
    assert found.skipped == ("optimizer: a dictionary with 1 tensors",)


def test_known_wrapper_wins_over_tensors_beside_it() -> None:
    """A stray tensor beside the model, a random state say, does not hide the model."""
    found = find({"rng_state": T(), "model": SD})
    assert list(found.tensors) == list(SD)
    assert found.skipped == ("rng_state: a tensor outside of the state dict",)


def test_key_selects() -> None:
    """A key names a dictionary by its path, dots in its parts notwithstanding."""
    tree = {
        "model": SD,
        "a": {"b": {"x": T()}},
        "a.b": {"y": T()},
        "ema": {"state_dict": {"z": T()}},
    }
    assert names(tree, "a.b") == ["y"]
    assert names(tree, "ema.state_dict") == ["z"]
    assert names(tree, "ema") == ["state_dict.z"]
    assert names({"a": {"b": {"x": T()}}}, "a.b") == ["x"]
    assert names({"a": {"b": {"c": {"x": T()}}}, "a.b": {"y": T()}}, "a.b.c") == ["x"]


@pytest.mark.parametrize("key", ["nothing", "model.a", "mode", "model.", "."])
def test_key_that_is_not_there_lists_those_that_are(key: str) -> None:
    """A wrong key is answered with the keys there are."""
    with pytest.raises(UsageError, match=r"there is model, ema, ema\.inner"):
        find({"model": SD, "ema": {"inner": SD}, "epoch": 1}, key)


COLLIDING: list[Any] = [
    {"a": {"b": T()}, "a.b": T()},
    {"a.b": T(), "a": {"b": T()}},
    {"x": {"y": {"z": T()}, "y.z": T()}, "w": T()},
]


@pytest.mark.parametrize("tree", COLLIDING)
def test_names_that_become_one_are_refused(tree: Any) -> None:
    """Two tensors never get one name."""
    with pytest.raises(InputError, match="would both be called"):
        find(tree)


@pytest.mark.parametrize("key", [7, None, True, 2.5, b"w", (1, "a"), Global("torch", "x")])
def test_name_that_is_no_text_is_refused(key: Any) -> None:
    """A tensor under a number or anything else but text has no name."""
    with pytest.raises(InputError, match="last part is not text but"):
        find({"a": T(), key: T()})
    with pytest.raises(InputError, match="last part is not text but"):
        find({"a": T(), key: {"b": T()}})


def test_number_and_its_text_are_told_apart() -> None:
    """The keys 1 and "1" are two, and the first is refused."""
    with pytest.raises(InputError, match="1, whose last part is not text"):
        find({"w": T(), 1: {"b": T()}, "1": {"c": T()}})
    with pytest.raises(InputError, match="1, whose last part is not text"):
        find({"w": T(), "1": {"c": T()}, 1: {"b": T()}})
    # Where the number's dictionary holds no tensor, the text's is not taken for it.
    assert names({"w": T(), 1: {"b": 5}, "1": {"c": T()}}) == ["w", "1.c"]
    assert names({"w": T(), "1": {"c": T()}, 1: {"b": 5}}) == ["w", "1.c"]


@pytest.mark.parametrize("name", ["a\0b", "a\n", "\x1b[2J", "\x7f", "a\r"])
def test_name_with_control_characters_is_refused(name: str) -> None:
    """A name that would act on a terminal, or end early in C, is refused, escaped."""
    with pytest.raises(InputError, match="control characters") as caught:
        find({name: T()})
    assert name not in str(caught.value)


@pytest.mark.parametrize("name", ["", "é", "权重.🙂", "a b", "a" * 4096, "\u200b"])
def test_other_names_are_kept(name: str) -> None:
    """Any other text is a name."""
    assert names({name: T(), "x": T()}) == [name, "x"]


def test_long_flattened_name_is_refused() -> None:
    """Joined names have a limit too."""
    with pytest.raises(InputError, match="longer than 4096"):
        find({"a" * 4000: {"b" * 200: T()}, "x": T()})


def test_tensor_with_a_problem_is_refused_only_where_it_is_wanted() -> None:
    """What cannot be ported is refused in the state dict and left lying beside it."""
    with pytest.raises(InputError, match="tensor w cannot be ported: it is sparse"):
        find({"w": T(problem="sparse")})
    assert names({"model": SD, "other": {"w": T(problem="sparse")}}) == list(SD)


@pytest.mark.parametrize("tree", [None, 3, "x", [], [T()], {}, {"a": 1}, {"a": [T()]}, {"a": {}}])
def test_tree_without_named_tensors_is_refused(tree: Any) -> None:
    """Without tensors under names there is nothing to port."""
    with pytest.raises(InputError, match="has no tensors under names"):
        find(tree)


def test_bare_tensor_is_refused() -> None:
    """One tensor alone has no name."""
    with pytest.raises(InputError, match="one bare tensor"):
        find(T())


def test_dictionary_in_itself_is_refused() -> None:
    """A dictionary that contains itself has no end."""
    tree: dict[str, Any] = {"w": T()}
    tree["me"] = {"again": tree}
    with pytest.raises(InputError, match="contains itself"):
        find(tree)


def test_deep_nesting_is_refused() -> None:
    """Dictionaries nested beyond any use are refused before the stack ends."""
    tree: dict[str, Any] = {"w": T()}
    for _ in range(5000):
        tree = {"a": tree}
    with pytest.raises(InputError, match="deeper than 100"):
        find(tree)


def test_a_hundred_dictionaries_are_not_too_deep() -> None:
    """One in another, a hundred are read; what holds no tensors may lie one deeper."""
    for bottom, levels in (({"w": T()}, 100), ({"w": T(), "empty": {}}, 100), ({"w": T()}, 101)):
        tree: dict[str, Any] = bottom
        for _ in range(levels - 1):
            tree = {"a": tree}
        if levels == 100:
            assert len(names(tree)) == 1
        else:
            with pytest.raises(InputError, match="deeper than 100"):
                find(tree)


@pytest.mark.parametrize("levels", [60, 15])
@pytest.mark.parametrize("bottom", [1, T()])
def test_shared_dictionaries_do_not_multiply(bottom: Any, levels: int) -> None:
    """A dictionary that is there twice, in one that is there twice, and so on, ends soon."""
    tree: dict[str, Any] = {"w": bottom}
    for _ in range(levels):
        tree = {"a": tree, "b": tree}
    begin = time.monotonic()
    if levels == 15 and bottom != 1:
        assert len(find({"model": {"x": T()}, "other": tree}).others) == 2
        assert len(names(tree)) == 1 << 15
    else:
        with pytest.raises(InputError, match=r"more than 1000000 tensors|has no"):
            find(tree)
    assert time.monotonic() - begin < 5


def test_sharing_does_not_hide_the_depth() -> None:
    """Chains that end in one another are as deep as all of them together."""
    tree: dict[str, Any] = {"w": T()}
    top: dict[str, Any] = {}
    for index in range(20):
        for _ in range(90):
            tree = {"a": tree}
        top[str(index)] = tree
    with pytest.raises(InputError, match="deeper than 100"):
        find(top)


def test_shared_state_dict_is_found_twice() -> None:
    """One state dict under two keys is two, each on its own."""
    found = find({"model": SD, "best": SD})
    assert (list(found.tensors), found.others) == (list(SD), ("best",))


def test_tensors_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a limit to the number of tensors."""
    monkeypatch.setattr(unwrapping, "MOST_TENSORS", 10)
    assert len(find({str(i): T() for i in range(10)}).tensors) == 10
    with pytest.raises(InputError, match="more than 10 tensors"):
        find({str(i): T() for i in range(11)})


PREFIXES: list[tuple[list[str], str]] = [
    (["module.a", "module.b"], "module."),
    (["module._orig_mod.a", "module._orig_mod.b.c"], "module._orig_mod."),
    (["_orig_mod.module.a"], "_orig_mod.module."),
    (["_fsdp_wrapped_module.a"], "_fsdp_wrapped_module."),
    (["_forward_module.module.a"], "_forward_module.module."),
    (["module.a", "b"], ""),
    (["module.a", "module."], ""),
    (["module.module.a"], "module.module."),
    (["modules.a"], ""),
    (["model.a"], ""),
    ([], ""),
]


@pytest.mark.parametrize(("given", "prefix"), PREFIXES)
def test_common_prefix(given: list[str], prefix: str) -> None:
    """Only prefixes of known wrappers, and only those before every name, are taken off."""
    assert common_prefix(given) == prefix


def test_prefix_is_taken_off_and_said() -> None:
    """Names lose the prefix unless they are to stay as they are."""
    found = find({"model": {"module.a": T(), "module.b": T()}})
    assert (list(found.tensors), found.prefix) == (["a", "b"], "module.")
    found = find({"module.a": T(), "module.b": T()}, strip=False)
    assert (list(found.tensors), found.prefix) == (["module.a", "module.b"], "")


def test_everything_left_is_named_with_its_kind() -> None:
    """What is no weight is listed, each with what it is, on one line."""
    tree = {
        "model": SD,
        "epoch": 3,
        "lr": 0.5,
        "done": True,
        "none": None,
        "note": "x" * 99,
        "short": "a\nb",
        "raw": b"x",
        "list": [1, 2],
        "pair": (1,),
        "table": {1: 2},
        "args": Opaque("argparse.Namespace"),
        "dtype": Global("torch", "float32"),
    }
    assert find(tree).skipped == (
        "epoch: the value 3",
        "lr: the value 0.5",
        "done: the value True",
        "none: the value None",
        "note: a text",
        "short: the text a\\nb",
        "raw: bytes",
        "list: a list of 2",
        "pair: a tuple of 1",
        "table: a dictionary of 1",
        "args: a value of argparse.Namespace",
        "dtype: the name torch.float32",
    )


def test_every_tensor_is_taken_or_named() -> None:
    """No tensor of the tree goes missing unsaid."""
    tree = {
        "w": {"a": T(), "b": {"c": T()}},
        "v": {"d": T()},
        "optimizer": {"e": T()},
        "f": T(),
        "lists": [T(), {"a": (T(), 1)}],
    }
    found = find(tree)
    assert list(found.tensors) == ["w.a", "w.b.c", "v.d", "f"]
    assert found.skipped == (
        "optimizer: a dictionary with 1 tensors",
        "lists: a list of 2 with 2 tensors",
    )


def test_counting_what_is_left_behind_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list that holds itself ends, and one under very many names is not counted for ever."""
    monkeypatch.setattr(unwrapping, "_MOST_COUNTED", 100)
    shared: list[object] = [T() for _ in range(30)]
    shared.append(shared)
    found = find({"w": T(), **{f"l{i}": shared for i in range(6)}}).skipped
    assert found[:2] == ("l0: a list of 31 with 30 tensors", "l1: a list of 31 with 30 tensors")
    assert found[-1] == "l5: a list of 31"


def test_key_that_is_no_text_is_told_with_its_path() -> None:
    """Whoever gives an optimizer's state reads where its numbers stand."""
    with pytest.raises(InputError, match=r"under state\.0, whose last part is not text but the va"):
        find({"state": {0: {"step": T()}, 1: {"step": T()}}})


def test_key_that_is_not_there_is_told_with_those_that_are() -> None:
    """A key that only begins like one is none; where there is but the top, that is said."""
    with pytest.raises(UsageError, match="no state dict is called x; there is only the top"):
        find({"w": T()}, "x")
    with pytest.raises(UsageError, match="no state dict is called modelling; there is model"):
        find({"model": {"w": {"v": T()}, "u": T()}}, "modelling")
    with pytest.raises(
        UsageError, match=r"no state dict is called model_w; there is model, model\.w"
    ):
        find({"model": {"w": {"v": T()}, "u": T()}}, "model_w")


def test_short_texts_are_told_whole() -> None:
    """A text of 40 characters is told, a longer one is not; a pair as a key is what it is."""
    found = find({"w": T(), "a": "x" * 40, "b": "x" * 41}).skipped
    assert found == (f"a: the text {'x' * 40}", "b: a text")
    with pytest.raises(InputError, match=r"whose last part is not text but a tuple of 2$"):
        find({(1, 2): T(), (3, 4): T()})


def test_errors_are_of_one_family() -> None:
    """Whatever is wrong with the tree is an error that a user can act on."""
    for tree in (None, {"a": T(problem="x")}, *COLLIDING):
        with pytest.raises(PorterError):
            find(tree)


def test_training_states_are_told_by_the_first_part_of_a_name() -> None:
    """A part of the model may be called as a training state is."""
    assert names({"a": T(), "block": {"optimizer": {"w": T()}}}) == ["a", "block.optimizer.w"]


def test_what_else_there_is_holds_no_training_state_and_not_the_top() -> None:
    """Nor what is below a training state, nor the top for tensors that lie beside the wrapper."""
    found = find({"model": SD, "optimizer": {"slow": SD}, "w": T(), "ema": {"z": T()}})
    assert (found.wrapper, found.others) == ("model", ("ema",))


def test_total_is_bounded_to_the_byte() -> None:
    """64 times the bytes of the file and 64 MiB more, counted with every repetition."""
    tensor = LazyTensor.of(np.zeros(64 * 100 + (64 << 20), np.uint8))
    unwrapping.check_total({"a": tensor}, 100)
    with pytest.raises(InputError, match="67115264 bytes of tensors out of a file of 99"):
        unwrapping.check_total({"a": tensor}, 99)
    with pytest.raises(InputError, match="67115265 bytes of tensors out of a file of 100"):
        unwrapping.check_total({"a": tensor, "b": LazyTensor.of(np.zeros(1, np.uint8))}, 100)


def test_tensors_of_the_training_only_are_named_with_their_keys() -> None:
    """A model that is kept in `trainer` is not taken, and the way to it is told."""
    tree = {"trainer": {"model": {"net": {"w": T()}}}, "step": 4}
    with pytest.raises(InputError, match=r"only under trainer, .* --key trainer\.model\.net"):
        find(tree)
    assert names(tree, "trainer.model.net") == ["w"]
