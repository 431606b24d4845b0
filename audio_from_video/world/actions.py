"""The twelve actions of the embedded sample data set, and how each of them is staged.

Names are Moments in Time's. What makes the set a test bed:

* look alike, sound different: knocking/hammering (colour pairs of struck material, told apart by
  grain or sheen), sawing/sanding (tools of like colour, told apart by shape), boiling/frying
  (contents of like colour);
* sound alike, look different: drumming/bouncing, pouring/spraying;
* mostly silent: waving, spinning.

Each action comes in several variants (a material, a tool, a content). A variant looks *and* sounds
like itself, so who has seen and heard many scenes can tell the sound from the look without knowing
any action's name.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Action:
    """How an action is staged, and how its sound is labelled."""

    staging: str  # which objects move in which way; a function of props.py
    variants: tuple[str, ...]
    tempo_hz: tuple[float, float]  # range of events per second
    labels: tuple[str, ...]  # AudioSet display names of its own sound


ACTIONS: dict[str, Action] = {
    "knocking": Action("strike", ("wood", "bamboo", "stone"), (1.6, 3.4), ("Knock", "Tap")),
    "hammering": Action("strike", ("copper", "brass", "steel"), (1.6, 3.4), ("Hammer", "Clang")),
    "sawing": Action("rub", ("handsaw", "hacksaw"), (2.0, 4.0), ("Sawing", "Wood")),
    "sanding": Action("rub", ("file", "block"), (2.4, 4.6), ("Sanding", "Rub")),
    "boiling": Action("pan", ("water", "soup", "milk"), (3.5, 7.0), ("Boiling", "Gurgling")),
    "frying": Action("pan", ("fish", "carrot", "egg"), (6.0, 10.0), ("Frying (food)", "Sizzle")),
    "drumming": Action("drum", ("red", "blue"), (1.8, 4.0), ("Drum", "Thump, thud")),
    "bouncing": Action("ball", ("orange", "green"), (1.3, 2.6), ("Bouncing", "Thump, thud")),
    "pouring": Action("pour", ("clay", "glass"), (0.5, 0.9), ("Pour", "Liquid")),
    "spraying": Action("spray", ("bottle", "hose"), (0.8, 1.6), ("Spray", "Liquid")),
    "waving": Action("flag", ("red", "yellow"), (1.5, 3.0), ("Flap", "Whoosh, swoosh, swish")),
    "spinning": Action("wheel", ("wooden", "metal"), (0.8, 2.0), ("Whir", "Whoosh, swoosh, swish")),
}

LOOK_ALIKE = (("knocking", "hammering"), ("sawing", "sanding"), ("boiling", "frying"))
MOSTLY_SILENT = ("waving", "spinning")
HELD_OUT = ("bouncing", "spraying", "spinning")  # never seen or heard by the embedded backbones
