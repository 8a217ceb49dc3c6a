"""Release 1 of the web application: list, show, create and edit articles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flask import Flask, abort, redirect, render_template, request, url_for
from sqlalchemy import create_engine, select, update
from sqlalchemy.orm import Session

from alembic_zero import pin_engine
from example_project.statements import StatementCounter

from .models import Article

if TYPE_CHECKING:
    from flask.typing import ResponseReturnValue

REVISION = "0001_articles"
FIELDS = ("title", "body", "author")
REQUIRED = ("title", "author")
NEWEST = 20


def create_app(url: str) -> Flask:
    """Return the application, its engine pinned to the revision that this release was written for."""
    app = Flask(__name__, template_folder=str(Path(__file__).parent / "templates"))
    engine = pin_engine(create_engine(url, pool_size=16), revision=REVISION)
    counter = StatementCounter(engine)
    app.extensions["engine"] = engine

    @app.get("/")
    def home() -> ResponseReturnValue:
        return redirect(url_for("index"))

    @app.get("/articles")
    def index() -> ResponseReturnValue:
        with Session(engine) as session:
            articles = session.scalars(select(Article).order_by(Article.id.desc()).limit(NEWEST)).all()
            return render_template("index.html", articles=articles)

    @app.get("/articles/<int:article_id>")
    def show(article_id: int) -> ResponseReturnValue:
        count_view = (
            update(Article)
            .where(Article.id == article_id)
            .values(views=Article.views + 1)
            .returning(Article)
            .execution_options(synchronize_session=False)
        )
        with Session(engine, expire_on_commit=False) as session, session.begin():
            article = session.scalar(count_view)
        if article is None:
            abort(404)
        return render_template("show.html", article=article)

    @app.get("/articles/new")
    def new() -> ResponseReturnValue:
        return render_template("form.html", fields={}, action=url_for("create"))

    @app.post("/articles")
    def create() -> ResponseReturnValue:
        fields = submitted_fields()
        if missing := missing_fields(fields):
            page = render_template("form.html", fields=fields, action=url_for("create"), missing=missing)
            return page, 422
        with Session(engine, expire_on_commit=False) as session, session.begin():
            article = Article(**fields)
            session.add(article)
        return redirect(url_for("show", article_id=article.id), 303)

    @app.get("/articles/<int:article_id>/edit")
    def edit(article_id: int) -> ResponseReturnValue:
        with Session(engine) as session:
            article = session.get(Article, article_id)
            if article is None:
                abort(404)
            fields = {name: getattr(article, name) for name in FIELDS}
        return render_template("form.html", fields=fields, action=url_for("save", article_id=article_id))

    @app.post("/articles/<int:article_id>")
    def save(article_id: int) -> ResponseReturnValue:
        fields = submitted_fields()
        if missing := missing_fields(fields):
            action = url_for("save", article_id=article_id)
            return render_template("form.html", fields=fields, action=action, missing=missing), 422
        with Session(engine) as session, session.begin():
            article = session.get(Article, article_id)
            if article is None:
                abort(404)
            for name, value in fields.items():
                setattr(article, name, value)  # SQLAlchemy writes only those that changed
        return redirect(url_for("show", article_id=article_id), 303)

    @app.get("/stats")
    def stats() -> ResponseReturnValue:
        return counter.as_dict()

    return app


def submitted_fields() -> dict[str, str]:
    """Return the fields of the form that came with the request."""
    return {name: request.form.get(name, "").strip() for name in FIELDS}


def missing_fields(fields: dict[str, str]) -> list[str]:
    """Return the names of the fields that may not stay empty, but are."""
    return [name for name in REQUIRED if not fields[name]]
