"""Recipes are read key by key and said plainly when wrong; files and folders are written whole or not at all."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cprec_hf.errors import InputError
from cprec_hf.files import atomic_file, atomic_folder, refuse_existing, require_free_space
from cprec_hf.recipes import check_keys, find_recipe, from_mapping, read_recipe, read_yaml, shipped


@dataclass(frozen=True)
class Inner:
    size: int
    rate: float = 0.5

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InputError(f"`size` is {self.size}; give at least 1")


@dataclass
class Outer:
    name: str
    inner: Inner = field(default_factory=lambda: Inner(1))
    kind: Literal["a", "b"] = "a"
    tokenizer: str | Inner = "x"
    most: int | None = None
    either: int | str | None = None
    names: list[str] = field(default_factory=list)
    pairs: dict[str, float] = field(default_factory=dict)
    inners: list[Inner] = field(default_factory=list)
    free: dict[str, Any] = field(default_factory=dict)
    on: bool = False


def test_values_are_converted_to_the_types_of_the_fields() -> None:
    given = {
        "name": "n", "inner": {"size": 2, "rate": 1}, "kind": "b", "tokenizer": {"size": 3}, "most": 4, "either": "e",
        "names": ["p"], "pairs": {"q": "1e-3"}, "inners": [{"size": 5}], "free": {"k": [1, None]}, "on": True,
    }  # fmt: skip
    outer = from_mapping(given, Outer, "r.yaml")
    assert outer == Outer(
        "n", Inner(2, 1.0), "b", Inner(3), 4, "e", ["p"], {"q": 0.001}, [Inner(5)], {"k": [1, None]}, True
    )
    assert isinstance(outer.inner.rate, float)
    assert from_mapping({"name": "n", "most": None, "tokenizer": "t"}, Outer, "r.yaml") == Outer("n", tokenizer="t")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "r.yaml: missing key `name`"),
        ({"name": "n", "inners": [{}]}, "r.yaml: `inners`[0]: missing key `size`"),
        ({"name": 3}, "r.yaml: `name` is 3, of type int; expected str"),
        ({"name": "n", "inner": {"sise": 1}}, "r.yaml: `inner`: unknown key `sise`; did you mean `size`?"),
        ({"name": "n", "tokenizer": {"sise": 1}}, "unknown key `sise`; did you mean `size`?"),
        ({"name": "n", "tokenizer": 3}, "`tokenizer` is 3, of type int; expected str or Inner"),
        ({"name": "n", "most": "many"}, "`most` is 'many', of type str; expected int"),
        ({"name": "n", "most": True}, "`most` is True, of type bool; expected int"),
        ({"name": "n", "either": [1]}, "expected int or str or null"),
        ({"name": "n", "kind": "c"}, "`kind` is 'c'; choose one of a, b"),
        ({"name": "n", "names": "p"}, "`names` is 'p', of type str; expected list"),
        ({"name": "n", "names": ["p", 1]}, "`names`[1] is 1"),
        ({"name": "n", "pairs": {"q": "much"}}, "`pairs`.q is 'much', of type str; expected float"),
        ({"name": "n", "pairs": {"q": True}}, "expected float"),
        ({"name": "n", "inner": {"size": 0}}, "r.yaml: `inner`: `size` is 0; give at least 1"),
        ({"name": "n", "on": "yes"}, "`on` is 'yes', of type str; expected bool"),
        ({"name": "n", 7: 1}, "unknown key `7`"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(given: dict[Any, Any], said: str) -> None:
    with pytest.raises(InputError) as raised:
        from_mapping(given, Outer, "r.yaml")
    assert said in str(raised.value) and "NoneType" not in str(raised.value)


def test_a_recipe_is_a_file_and_flags_override_it(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("# what it is\nname: from the file\nmost: 3\n", encoding="utf-8")
    assert read_recipe(recipe, Outer, {"name": "from a flag"}) == Outer("from a flag", most=3)
    with pytest.raises(InputError, match=r"r\.yaml: unknown key `nmae`; did you mean `name`\?"):
        read_recipe(recipe, Outer, {"nmae": 1})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: [1", "not valid YAML"),
        (b"- a\n", "expected `key: value` lines at the top level, found list"),
        (b"", "found NoneType"),
        (b"a: \xff", "not UTF-8 at byte 3"),
        (b"a: !!python/object:os.system {}", "not valid YAML"),
    ],
)
def test_a_broken_file_is_said(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "r.yaml").write_bytes(content)
    with pytest.raises(InputError, match=r"r\.yaml") as raised:
        read_yaml(tmp_path / "r.yaml")
    assert said in str(raised.value)


def test_a_missing_file_and_a_folder_are_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "cpt.yaml").touch()
    with pytest.raises(InputError, match=r"is a folder; give one of its files: cpt\.yaml"):
        read_yaml(tmp_path)


@given(st.lists(st.text(min_size=1), min_size=1, unique=True), st.text())
def test_keys_are_checked(known: list[str], key: str) -> None:
    if key in known:
        check_keys([key], known, "here")
    else:
        with pytest.raises(InputError, match="here: unknown key"):
            check_keys([key], known, "here")


def test_shipped_recipes_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    inside = shipped("recipes") / "tiny" / "corpus.yaml"
    assert find_recipe("tiny/corpus.yaml") == find_recipe("recipes/tiny/corpus.yaml") == inside
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "corpus.yaml").touch()
    assert find_recipe("tiny/corpus.yaml") == Path("tiny/corpus.yaml")  # one's own file comes first
    for wrong in ("tiny/corpsu.yaml", "recipes/tiny/corpsu.yaml", "/elsewhere/tiny/corpsu.yaml"):
        with pytest.raises(InputError, match=rf"no recipe {wrong}.*did you mean tiny/corpus\.yaml"):
            find_recipe(wrong)
    with pytest.raises(InputError, match=r"no recipe none\.yaml.*there are accelerate, .*, tiny$"):
        find_recipe("none.yaml")


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "sub" / "a.json"
    with atomic_file(target) as temporary:
        temporary.write_text("one")
        assert not target.exists() and temporary.parent == target.parent
    assert target.read_text() == "one"
    for end in (KeyboardInterrupt, OSError(errno.ENOSPC, "No space left on device")):
        with pytest.raises(end if isinstance(end, type) else type(end)), atomic_file(target) as temporary:
            temporary.write_text("half")
            raise end
    assert target.read_text() == "one" and list(target.parent.iterdir()) == [target]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with atomic_folder(target) as temporary:
        (temporary / "a").write_text("one")
        assert not target.exists()
    with pytest.raises(InputError, match="exists already"), atomic_folder(target):
        raise AssertionError("said before any work starts")
    with pytest.raises(KeyboardInterrupt), atomic_folder(target, overwrite=True) as temporary:
        (temporary / "b").write_text("half")
        raise KeyboardInterrupt
    assert {p.name: p.read_text() for p in target.iterdir()} == {"a": "one"}
    with atomic_folder(target, overwrite=True) as temporary:
        (temporary / "b").write_text("two")
    assert {p.name: p.read_text() for p in target.iterdir()} == {"b": "two"}
    assert list(tmp_path.iterdir()) == [target]


@contextmanager
def interrupted_rename(monkeypatch: pytest.MonkeyPatch, at: int) -> Iterator[None]:
    """Ctrl-C at the `at`-th rename, before it happens."""
    calls, rename = [], Path.replace

    def replace(source: Path, target: Path) -> Path:
        calls.append(source)
        if len(calls) == at:
            raise KeyboardInterrupt
        return rename(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", replace)
        yield


@pytest.mark.parametrize("at", [1, 2])
def test_an_interrupt_between_the_renames_keeps_the_old_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "a").write_text("old")
    with (
        interrupted_rename(monkeypatch, at),
        pytest.raises(KeyboardInterrupt),
        atomic_folder(target, overwrite=True) as temporary,
    ):
        (temporary / "a").write_text("new")
    assert (target / "a").read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_what_exists_is_not_replaced_unasked(tmp_path: Path) -> None:
    refuse_existing(tmp_path / "none", overwrite=False)
    refuse_existing(tmp_path, overwrite=False)  # an empty folder
    (tmp_path / "a").touch()
    refuse_existing(tmp_path, overwrite=True)
    with pytest.raises(InputError, match="exists already"):
        refuse_existing(tmp_path, overwrite=False)
    for overwrite in (False, True):
        with pytest.raises(InputError, match="is a file"):
            refuse_existing(tmp_path / "a", overwrite=overwrite)


def test_too_little_space_is_said_before_work_starts(tmp_path: Path) -> None:
    require_free_space(tmp_path / "not" / "yet" / "there", 1)
    with pytest.raises(InputError, match=r"about .* MB are needed and .* MB are free"):
        require_free_space(tmp_path / "not" / "yet" / "there", 1 << 62)
