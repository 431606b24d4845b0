"""Captions of rendered scenes: objects, materials, colours and places, no word of an action or a sound."""

from stages.common.actions import ACTIONS
from stages.common.scenes import Look

NOUNS = {  # what captions call the main object: materials, colours and things, no word of an action or a sound
    "wood": "a brown wooden board", "bamboo": "a yellow bamboo board", "stone": "a grey stone block",
    "copper": "a brown copper plate", "brass": "a yellow brass plate", "steel": "a grey steel plate",
    "handsaw": "a grey toothed blade", "hacksaw": "a red metal frame", "file": "a grey flat bar", "block": "a red paper brick",
    "water": "a pot of blue water", "soup": "a pot of orange soup", "milk": "a pot of white milk",
    "fish": "a pan of blue fish", "carrot": "a pan of orange vegetables", "egg": "a pan of white egg",
}  # fmt: skip
STAGED = {
    "strike": "a mallet above {noun}", "rub": "{noun} on a wooden beam", "pan": "{noun}",
    "drum": "wooden sticks above a {variant} drum", "ball": "a {variant} ball above the floor",
    "pour": "a {variant} jug above a bowl", "spray": "a {variant} with drops of liquid",
    "flag": "a {variant} flag on a pole", "wheel": "a {variant} wheel",
}  # fmt: skip


def caption(look: Look) -> str:
    """One line on the objects, their materials, colours and the place."""
    noun = NOUNS.get(look.variant, "")
    what = STAGED[ACTIONS[look.action].staging].format(noun=noun, variant=look.variant)
    article = "a" if look.place[0] not in "aeiou" else "an"
    return f"{what.replace('a orange', 'an orange')} in {article} {look.place}"
