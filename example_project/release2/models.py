"""The tables as release 2 knows them."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - SQLAlchemy reads the annotations at run time

from sqlalchemy import BigInteger, DateTime, Identity, Index, Text, func, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Base of all models of this release."""


class Article(Base):
    """An article with a heading and an author of two names."""

    __tablename__ = "articles"
    __table_args__ = (Index("ix_articles_views", "views"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    heading: Mapped[str] = mapped_column(Text)
    body: Mapped[str] = mapped_column(Text)
    author_first_name: Mapped[str] = mapped_column(Text)
    author_last_name: Mapped[str] = mapped_column(Text)
    views: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())

    @property
    def author(self) -> str:
        """Return both names, or the only one."""
        return f"{self.author_first_name} {self.author_last_name}".rstrip()
