"""Texts that programs will see as arguments."""

from pathlib import Path

import pytest

from nixkube_deploy.inventory.error import InventoryError
from nixkube_deploy.inventory.sections import bare
from nixkube_deploy.inventory.shape import At, Text
from nixkube_deploy.inventory.source import Mark, Source
from nixkube_deploy.inventory.tree import Scalar
from nixkube_deploy.inventory.values import ADDRESS, ATTRIBUTE, DEVICE, FILE_PATH, HOST_KEY, JUMP, NAME, URL, USER

KEY = "AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
AT = At(Source(name="x", text="", base=Path("/base")))


def read(shape: Text, text: str) -> object:
    return bare(shape.read(Scalar(text, False, Mark(0, 0)), AT))


@pytest.mark.parametrize("text", ["10.0.0.1", "fd00::1", "fe80::1%eth0", "pi1.lan", "a", "web_1", "host.example."])
def test_an_address_is_a_name_or_an_ip(text: str) -> None:
    assert read(ADDRESS, text) == text


@pytest.mark.parametrize(
    "text", ["", "-o", "a b", "10.0.0", "1.2.3.4.5", "a/b", "a,b", "a..b@", "fd00:::1", "ä.example", "x" * 254, "a\n"]
)
def test_anything_else_is_no_address(text: str) -> None:
    with pytest.raises(InventoryError):
        read(ADDRESS, text)


@pytest.mark.parametrize("text", ["bastion", "me@bastion:2222", "a,b", "admin@[fd00::1]:22,b.example"])
def test_a_jump_is_hops_as_openssh_writes_them(text: str) -> None:
    assert read(JUMP, text) == text


@pytest.mark.parametrize("text", ["-oX", "a,", ",a", "a b", "me@", "@b", "a,-b", "me@-x", "a:b"])
def test_anything_else_is_no_jump(text: str) -> None:
    with pytest.raises(InventoryError):
        read(JUMP, text)


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        (USER, "-l"),
        (NAME, "-x"),
        (NAME, "a/b"),
        (NAME, "x" * 64),
        (FILE_PATH, "-i"),
        (ATTRIBUTE, "--impure"),
        (ATTRIBUTE, "a#b"),
        (DEVICE, "sda"),
        (URL, "file:///etc/passwd"),
        (URL, "http:// x"),
        (FILE_PATH, "~nobody-has-this-name/x"),
    ],
)
def test_what_could_be_taken_for_an_option_or_is_none_is_refused(shape: Text, text: str) -> None:
    with pytest.raises(InventoryError):
        read(shape, text)


def test_a_host_key_loses_its_comment() -> None:
    assert read(HOST_KEY, f"ssh-ed25519 {KEY} root@w1") == f"ssh-ed25519 {KEY}"


@pytest.mark.parametrize(
    "text", [f"ssh-rsa {KEY}", f"ssh-ed25519 {KEY[:-8]}=", "ssh-ed25519 AAAA", KEY, "ssh-dss AAAA"]
)
def test_a_host_key_that_is_cut_off_or_of_another_type_is_refused(text: str) -> None:
    with pytest.raises(InventoryError):
        read(HOST_KEY, text)


def test_a_path_starts_at_the_inventory_or_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")

    assert [read(FILE_PATH, text) for text in ("x/../y", "/z", "~/k")] == ["/base/y", "/z", "/home/me/k"]
