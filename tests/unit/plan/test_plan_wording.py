import pytest

from nixkube_deploy.plan.wording import host_list, hosts
from tests.builders import names


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", ""),
        ("w1", "w1"),
        ("w1 w2", "w1, w2"),
        ("w1 w2 w3", "w1..w3 (3 hosts)"),
        ("cp1 w1..w4 w6 w7", "cp1, w1..w4, w6, w7 (7 hosts)"),
        ("n08 n09 n10", "n08..n10 (3 hosts)"),
        ("n8 n09 n10", "n8, n09, n10"),
        ("a b c d", "a, b, c, d"),
        ("w1 v2 w3", "w1, v2, w3"),
    ],
)
def test_consecutive_names_are_drawn_together(given, said):
    assert host_list(names(given)) == said


def test_a_list_beyond_reading_is_cut_and_counted():
    odd = [name for number, name in enumerate(names("w1..w200")) if number % 2]
    assert host_list(odd).endswith("w118, w120 and 40 more (100 hosts)")


def test_one_host_is_not_plural():
    assert [hosts(1), hosts(2)] == ["1 host", "2 hosts"]
