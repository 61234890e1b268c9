"""Whom and what recall facts are about: names and values, split for good into training and test ones.

A name or value belongs to the test split if its stable hash says so, on every machine: a model can only answer for
it by reading its context. Names are people's names and made-up ones of several syllables, so that many different
tokenisations occur and the skill carries over to any capitalised name.
"""

from __future__ import annotations

from random import Random

from megacontext.training.corpus import stable_share

__all__ = [
    "CITIES",
    "COLORS",
    "FIRST_NAMES",
    "LAST_NAMES",
    "THINGS",
    "WORDS",
    "any_name",
    "digits",
    "is_test",
    "made_up_word",
    "similar_name",
]

TEST_SHARE = 0.1


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST_NAMES = _words(
    """
    Alice Robert Maria James Linda Peter Susan David Karen Thomas Nancy Daniel Laura Kevin Helen Brian Emma
    George Julia Frank Sarah Edward Grace Henry Diana Martin Olivia Walter Rachel Arthur Sofia Victor Hannah
    Oscar Monica Simon Clara Philip Irene Samuel Teresa Gordon Esther Leonard Vivian Harold Miriam Stanley Naomi
    Eugene Beatrice Russell Cynthia Vernon Adele Clifford Renata Dominic Ursula Gilbert Yvonne Roland Ingrid
    Marcus Paula Trevor Sylvia Nathan Felicia Conrad Doris Alvin Gloria Rupert Wanda Felix Lydia Hugo Nina Otto
    Priya Kenji Amara Mateo Leila Sven Aisha Pavel Chloe Ravi Elena Tariq Mei Bruno Ada Ivan Zoe Omar Ruth Noah
    Iris Jonas Mina Caleb Tessa Anton Freya
    """
)
LAST_NAMES = _words(
    """
    Smith Johnson Brown Taylor Miller Wilson Moore Clark Lewis Walker Hall Young King Wright Hill Green Baker
    Nelson Carter Parker Evans Turner Collins Stewart Morris Cook Bell Murphy Bailey Cooper Reed Kelly Howard
    Ward Brooks Gray Watson Price Bennett Wood Barnes Ross Perry Powell Long Hughes Foster Butler Bryant Hayes
    Myers Ford Graham Sullivan Wallace West Cole Jordan Owens Fisher Gibson Ellis Marshall Mason Porter Hunter
    Hicks Crawford Boyd Fox Rose Stone Dunn Perkins Hudson Spencer Gardner Payne Pierce Berry Novak Tanaka
    Okafor Silva Haddad Larsen Mbeki Petrov Dubois Sharma Costa Nakamura Lindqvist Moreau Kovacs Ortega Banerjee
    Fischer Romano Eriksen Castillo Yilmaz
    """
)
ONSETS = _words("b br c ch d dr f fl g gr h j k kr l m n p pr qu r s sh st t th tr v w y z")
VOWELS = _words("a e i o u ai ea ia io ou")
CODAS = _words("b d g k l ll m n nd r rn s sk st t th x") + ("",) * 9  # most syllables end open
THINGS = _words(
    """
    gate vault station archive lantern harbor bridge engine garden tower mill chapel cabin depot locker server
    cluster ledger reactor valley ferry observatory workshop
    """
)
COLORS = _words(
    """
    red blue green yellow purple orange white black silver golden brown gray pink crimson turquoise
    """
)
CITIES = _words(
    """
    Lisbon Oslo Cairo Lima Tokyo Boston Madrid Vienna Prague Dublin Naples Geneva Athens Berlin Seville Hamburg
    Denver Havana Quito Kyoto Bergen Turin Zurich Riga Warsaw Sydney Nairobi Bombay Calcutta Toronto Chicago
    Venice Florence Moscow Odessa Damascus Beirut Malta Jakarta Manila
    """
)
WORDS = _words(
    """
    silver lantern copper river maple thunder velvet anchor marble falcon willow ember crystal meadow iron
    harvest winter orchid canyon ivory pebble saffron cobalt timber raven harbor cedar amber glacier mirror
    pepper violet walnut compass feather granite lemon basil pilgrim rocket shadow signal tulip wagon whistle
    bamboo button candle desert engine fiddle goblet hammer island jacket kettle ladder magnet needle oyster
    paddle quartz ribbon saddle tunnel umbrella vessel window yellow zephyr bottle cactus dragon garlic helmet
    jungle monkey napkin parrot puzzle rabbit salmon temple turtle walrus bridge castle dagger eagle forest
    ginger hollow journal knight letter museum nectar olive palace queen rooster sparrow teapot unicorn valley
    wizard
    """
)


def is_test(text: str) -> bool:
    """Whether this name or value belongs to the test split."""
    return stable_share("recall:" + text) < TEST_SHARE


def made_up_word(random: Random) -> str:
    """A capitalised word of two or three syllables that is (almost surely) in no dictionary."""
    syllables = (
        random.choice(ONSETS) + random.choice(VOWELS) + random.choice(CODAS) for _ in range(random.choice((2, 2, 3)))
    )
    return "".join(syllables).capitalize()


def any_name(random: Random) -> str:
    """A name of either split: a person, a made-up person, a project, a place, a thing."""
    kind = random.random()
    if kind < 0.50:
        return f"{random.choice(FIRST_NAMES)} {random.choice(LAST_NAMES)}"
    if kind < 0.62:
        return f"{random.choice(FIRST_NAMES)} {made_up_word(random)}"
    if kind < 0.74:
        return f"{made_up_word(random)} {made_up_word(random)}"
    if kind < 0.80:
        return made_up_word(random)
    if kind < 0.86:
        return f"Project {made_up_word(random)}"
    if kind < 0.93:
        return f"the {made_up_word(random)} {random.choice(THINGS)}"
    return f"the {random.choice(WORDS)} {random.choice(THINGS)}"


def similar_name(random: Random, name: str) -> str:
    """A distractor: shares the first or the last word of `name`."""
    words = name.split()
    if len(words) == 1:
        return f"{name} {random.choice(LAST_NAMES)}"
    if words[0] in ("the", "Project"):
        return " ".join([words[0], made_up_word(random), *words[2:]])
    if random.random() < 0.5:
        return f"{words[0]} {random.choice(LAST_NAMES) if random.random() < 0.7 else made_up_word(random)}"
    return f"{random.choice(FIRST_NAMES)} {words[-1]}"


def digits(random: Random, count: int) -> str:
    """A number of exactly `count` digits, leading zeros allowed."""
    return f"{random.randrange(10**count):0{count}d}"
