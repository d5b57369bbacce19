import json

import pytest

from potluck.coordinator.watching.watched import apart, together

ONE, OTHER = b'{"model":"a, \\"b\\"","nodes":[{"held":1}]}', b'{"model":"c","nodes":[]}'


def test_one_model_is_told_alone_and_several_in_their_order() -> None:
    assert together([ONE]) == ONE
    assert json.loads(together([ONE, OTHER])) == {"models": [json.loads(ONE), json.loads(OTHER)]}
    assert together([ONE, OTHER]) != together([OTHER, ONE])


@pytest.mark.parametrize("told", [[ONE], [ONE, OTHER], [OTHER, ONE, OTHER]])
def test_what_was_put_together_can_be_taken_apart(told: list[bytes]) -> None:
    assert apart(together(told)) == (told, None)


@pytest.mark.parametrize("told", [[], [ONE], [ONE, OTHER]])
def test_where_models_are_offered_there_is_a_list_in_any_case(told: list[bytes]) -> None:
    both = together(told, b'[{"name":"anna"}]')
    assert json.loads(both) == {"models": [json.loads(one) for one in told], "idle": [{"name": "anna"}]}
    assert apart(both) == (told, b'[{"name":"anna"}]')
