"""The sentences for requests whose JSON is not what their type declares."""

import json
from enum import Enum
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta, Struct

from potluck.coordinator.http.complaints import complaint, missing


class Course(Enum):
    SOUP = "soup"
    CAKE = "cake"


class Dish(Struct, frozen=True, rename={"sort": "type"}):
    sort: Literal["hot"]
    course: Course | None = None
    sizes: Annotated[dict[str, Annotated[float, Meta(ge=0)]] | None, Meta(description="In litres.")] = None


class Meal(Struct, frozen=True, kw_only=True):
    dishes: list[Dish]
    guests: int | None = None
    vegan: bool = False
    seats: Literal["any", "window"] | Dish | None = None
    notes: str | list[str | int] = ""
    rest: Any = None


def told(fields: object) -> str:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(json.dumps(fields), type=Meal)
    text, _, place = str(caught.value).partition(" - at `$.")
    return complaint(text, place.rstrip("`"), Meal)


@pytest.mark.parametrize("body", [[], None, 3, 3.5, "x", True])
def test_a_body_is_an_object(body: Any) -> None:
    assert told(body) == "The request's body must be a JSON object."


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "dishes is missing."),
        ({"dishes": None}, "dishes must be a list, not null."),
        ({"dishes": {}}, "dishes must be a list, not an object."),
        ({"dishes": [{"type": "hot"}, []]}, "dishes[1] must be an object, not a list."),
        ({"dishes": [{"type": "hot"}, {}]}, "dishes[1].type is missing."),
        ({"dishes": [{"type": "cold"}]}, "dishes[0].type must be \"hot\", not 'cold'."),
        ({"dishes": [{"type": "it's"}]}, 'dishes[0].type must be "hot", not "it\'s".'),
        ({"dishes": [{"type": "x" * 60}]}, f'dishes[0].type must be "hot", not \'{"x" * 49}….'),
        ({"dishes": [{"type": "\n"}]}, r"""dishes[0].type must be "hot", not '\n'."""),
        ({"dishes": [{"type": 3}]}, 'dishes[0].type must be "hot", not a whole number.'),
        ({"dishes": [{"type": "hot", "course": "fish"}]}, 'dishes[0].course must be "soup" or "cake", not \'fish\'.'),
        ({"dishes": [{"type": "hot", "sizes": {"big": "x"}}]}, "dishes[0].sizes[...] must be a number, not a text."),
        ({"dishes": [], "guests": "many"}, "guests must be a whole number, not a text."),
        ({"dishes": [], "guests": 1.5}, "guests must be a whole number, not a number with a fraction."),
        ({"dishes": [], "vegan": 3}, "vegan must be true or false, not a whole number."),
        ({"dishes": [], "seats": "x"}, 'seats must be "any", "window" or an object, not \'x\'.'),
        ({"dishes": [], "seats": 3}, 'seats must be "any", "window" or an object, not a whole number.'),
        ({"dishes": [], "seats": {"type": "x"}}, "seats.type must be \"hot\", not 'x'."),
        ({"dishes": [], "notes": True}, "notes must be a text or a list, not true or false."),
        ({"dishes": [], "notes": ["x", True]}, "notes[1] must be a text or a whole number, not true or false."),
        (
            {"dishes": [{"type": "hot", "sizes": {"big": -1}}]},
            "dishes[0].sizes[...]: Expected `float` >= 0.0.",
        ),
    ],
)
def test_what_should_stand_there_is_told(fields: dict[str, Any], sentence: str) -> None:
    assert told(fields) == sentence


def test_what_the_types_do_not_say_is_told_in_the_words_of_the_parser() -> None:
    assert complaint("Expected `int`, got `str`", "rest.of.it", Meal) == "rest.of.it: Expected `int`, got `str`."
    assert complaint("Something new", "", Meal) == "Something new."


def test_the_field_that_is_missing() -> None:
    assert missing("Object missing required field `dishes`") == "dishes"
    assert missing("Expected `int`, got `str`") == ""
