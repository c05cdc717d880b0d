"""Closures compared package by package."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nixkube_deploy.model.names import StorePath
from nixkube_deploy.model.packages import PackageChange, PackageFate, StoredPath
from nixkube_deploy.plan.packages import NOTICEABLE, closure_of, package_changes, package_of, split_name
from tests.builders import store_path

CHANGED, ADDED, REMOVED, REBUILT = PackageFate

WORDS = st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True)
VERSIONS = st.from_regex(r"[0-9]{1,2}(\.[0-9]{1,2}){0,2}|", fullmatch=True)
OUTPUTS = st.sampled_from(["", "-bin", "-man", "-lib", "-modules"])


@st.composite
def store_paths(draw) -> StorePath:
    version = draw(VERSIONS)
    name = "-".join(draw(st.lists(WORDS, min_size=1, max_size=2)))
    output = draw(OUTPUTS) if version else ""
    return store_path(f"{name}-{version}{output}" if version else name, draw(st.sampled_from("abc")))


CLOSURES = st.dictionaries(store_paths(), st.integers(0, 10**6), max_size=12)


def closure(text: str, size: int = 100_000, salt: str = "") -> dict[StorePath, int]:
    return {store_path(name, salt): size for name in text.split()}


@pytest.mark.parametrize(
    ("name", "package", "version"),
    [
        ("bash-5.3", "bash", "5.3"),
        ("bash-interactive-5.3p3", "bash-interactive", "5.3p3"),
        ("glibc-2.40-66", "glibc", "2.40-66"),
        ("gtk+3-3.24", "gtk+3", "3.24"),
        ("etc", "etc", ""),
        ("unit-k3s.service", "unit-k3s.service", ""),
        ("foo-_1", "foo", "_1"),
        ("trailing-", "trailing-", ""),
        ("-1", "-1", ""),
    ],
)
def test_a_version_begins_after_the_first_dash_that_no_letter_follows(name, package, version):
    assert split_name(name) == (package, version)


@pytest.mark.parametrize(
    ("name", "package", "version"),
    [
        ("openssl-3.0.15-bin", "openssl", "3.0.15"),
        ("openssl-3.0.15-man", "openssl", "3.0.15"),
        ("glibc-2.40-66-getent", "glibc", "2.40-66"),
        ("linux-6.12.8-modules", "linux", "6.12.8"),
        ("initrd-linux-6.12.8", "initrd-linux", "6.12.8"),
        ("gcc-14.2.0-lib32", "gcc", "14.2.0"),
        ("shadow-4.17-su", "shadow", "4.17"),
        ("tool-1.2-unstable", "tool", "1.2-unstable"),
        ("tool-1.2-rc", "tool", "1.2-rc"),
        ("tool-man", "tool", ""),
        ("system-units", "system-units", ""),
        ("system-path", "system-path", ""),
        ("etc-hostname", "etc-hostname", ""),
        ("kernel-modules", "kernel-modules", ""),
    ],
)
def test_outputs_belong_to_their_package_and_parts_of_a_system_are_not_outputs(name, package, version):
    assert package_of(store_path(name)) == (package, version)


def test_versions_that_both_have_are_not_mentioned():
    made = package_changes(closure("openssl-1.1.1 openssl-3.0.14"), closure("openssl-1.1.1 openssl-3.0.15", 100_500))
    row = made.packages[0]
    assert (row.name, row.fate, row.old, row.new, row.delta) == ("openssl", CHANGED, ("3.0.14",), ("3.0.15",), 1000)


def test_what_changes_comes_first_then_what_is_new_then_what_goes_each_by_weight():
    old = closure("bash-5.2 linux-6.12.7 gone-1") | closure("gone-2.0", 5_000_000) | closure("glibc-2.40", salt="a")
    new = closure("bash-5.3") | closure("linux-6.12.8", 9_000_000) | closure("new-1") | closure("glibc-2.40", 10, "b")
    made = package_changes(old, new)
    assert [(row.name, row.fate) for row in made.packages] == [
        ("linux", CHANGED),
        ("bash", CHANGED),
        ("new", ADDED),
        ("gone", REMOVED),
        ("glibc", REBUILT),
    ]
    assert made.packages[3].old == ("1", "2.0")


def test_what_was_only_rebuilt_is_named_apart():
    old = closure("bash-5.3 bash-5.3-man etc", salt="a")
    made = package_changes(old, closure("bash-5.3 bash-5.3-man etc", salt="b"))
    assert (made.packages, made.rebuilt) == ((), ("bash", "etc"))


def test_one_more_output_is_no_other_version():
    made = package_changes(closure("bash-5.3"), closure("bash-5.3 bash-5.3-doc"))
    assert made.packages == (PackageChange(name="bash", fate=REBUILT, delta=100_000),)


def test_numbers_in_versions_are_numbers():
    made = package_changes({}, closure("a-9 a-10 a-1.9 a-1.10 a"))
    assert made.packages[0].new == ("", "1.9", "1.10", "9", "10")


def test_toplevels_are_left_out_because_they_carry_their_hosts_name():
    made = package_changes(closure("nixos-system-w1-25.05"), closure("nixos-system-w1-25.11 nixos-system-x-25.11"))
    assert (made.packages, made.rebuilt) == ((), ())


def test_a_closure_is_followed_through_its_references_once_each():
    root, lib, far = (store_path(name) for name in ("root", "lib", "far"))
    known = {
        root: StoredPath(size=1, references=(root, lib)),
        lib: StoredPath(size=10, references=(far, root)),
        far: StoredPath(size=100),
        store_path("other"): StoredPath(size=1000),
    }
    assert closure_of(root, known) == {root: 1, lib: 10, far: 100}
    del known[far]
    assert closure_of(root, known) is None
    assert closure_of(store_path("missing"), known) is None


@given(CLOSURES, CLOSURES)
def test_the_sizes_add_up(old, new):
    rows = package_changes(old, new).packages
    quiet = sum(new.values()) - sum(old.values()) - sum(row.delta for row in rows)
    assert abs(quiet) < NOTICEABLE * (len(package_changes(old, new).rebuilt) + 1)


@given(CLOSURES, CLOSURES)
def test_there_and_back_is_the_same_the_other_way_round(old, new):
    there, back = package_changes(old, new), package_changes(new, old)
    turned = {ADDED: REMOVED, REMOVED: ADDED}
    flipped = {(r.name, turned.get(r.fate, r.fate), r.new, r.old, -r.delta) for r in back.packages}
    assert {(r.name, r.fate, r.old, r.new, r.delta) for r in there.packages} == flipped
    assert there.rebuilt == back.rebuilt


@given(CLOSURES)
def test_a_closure_does_not_differ_from_itself_however_it_is_ordered(some):
    turned = dict(reversed(list(some.items())))
    assert package_changes(some, turned) == package_changes({}, {})
    assert package_changes({}, turned) == package_changes({}, some)


@given(CLOSURES, CLOSURES)
def test_a_package_is_named_once_and_only_when_it_differs(old, new):
    made = package_changes(old, new)
    named = [row.name for row in made.packages] + list(made.rebuilt)
    assert len(named) == len(set(named))
    differing = {package_of(path)[0] for path in old.keys() ^ new.keys()}
    assert differing <= set(named)
