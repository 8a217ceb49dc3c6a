"""An article as its writer thinks of it, and as each release's form spells it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

# One word, two, more, and a first name of two words: the last is what splitting and joining cannot restore.
AUTHORS = (
    ("Ada", "Lovelace"),
    ("Grace", "Hopper"),
    ("Zoë", "O'Neil"),
    ("Plato", ""),
    ("Ludwig", "van Beethoven"),
    ("Jean Luc", "Picard"),
)
WORDS = ("zero", "100%", '"quoted"', "it's", "<b>bold</b>", ":colon", "back\\slash", "日本", "naïve", "&")


def full_name(first: str, last: str) -> str:
    """Return the author as release 1 writes it."""
    return f"{first} {last}".rstrip()


@dataclass(frozen=True)
class Article:
    """The content that must be found again, in whatever release it was written."""

    heading: str
    body: str
    first_name: str
    last_name: str

    @property
    def author(self) -> str:
        """Return the author's whole name."""
        return full_name(self.first_name, self.last_name)

    def as_form(self, release: int) -> dict[str, str]:
        """Return the fields of the form of *release*."""
        if release == 1:
            return {"title": self.heading, "body": self.body, "author": self.author}
        return {
            "heading": self.heading,
            "body": self.body,
            "author_first_name": self.first_name,
            "author_last_name": self.last_name,
        }

    def as_displayed(self) -> dict[str, str]:
        """Return what the article's page must show, in both releases."""
        return {"headline": self.heading, "author": self.author, "articleBody": self.body}

    def after_saving(self, release: int, previous: Article | None) -> Article:
        """Return what is stored once *release* has saved this article over *previous*.

        Release 1 knows only whole names. One that it did not change keeps the two names
        that release 2 gave it; one that it did is split anew.
        """
        if release == 2:
            return self
        if previous is not None and previous.author == self.author:
            return Article(self.heading, self.body, previous.first_name, previous.last_name)
        first, _, last = self.author.partition(" ")
        return Article(self.heading, self.body, first, last)


def article_in_form(fields: dict[str, str]) -> Article:
    """Return the article that a form of either release is filled with."""
    if "author" in fields:
        first, _, last = fields["author"].partition(" ")
        return Article(fields["title"], fields["body"], first, last)
    return Article(fields["heading"], fields["body"], fields["author_first_name"], fields["author_last_name"])


def random_text(random: Random, words: int) -> str:
    """Return *words* words and a number that makes the text unlike any other."""
    return " ".join([*random.choices(WORDS, k=words), str(random.getrandbits(40))])


def random_article(random: Random) -> Article:
    """Return a new article."""
    return Article(random_text(random, 4), random_text(random, 30), *random.choice(AUTHORS))
