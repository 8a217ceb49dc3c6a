"""The documentation keeps up with the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from alembic.config import CommandLine

import alembic_zero
from alembic_zero.operations.dispatch import OPERATION_CLASSES

PACKAGE = Path(alembic_zero.__file__).parent
ROOT = PACKAGE.parent
DOCS = ROOT / "docs"
OPERATIONS = DOCS / "operations"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
# Whole-string codes are arguments; the other form begins the message of an error that is not raised.
CODE = re.compile(r"(?:^|\[)(ZD\d{3})(?:$|\])")


def codes_in_sources() -> set[str]:
    """Return the codes in string literals, those inside f-strings included."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.update(CODE.findall(node.value))
    return found


def headings(page: str, level: int) -> list[str]:
    return re.findall(rf"^{'#' * level} (.+)$", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as code hosts make them."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def snippets(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_docs__every_error_code_has_one_section_and_every_section_a_code():
    sections = [title.partition(":")[0] for title in headings("errors.md", 2)]
    assert sorted(sections) == sorted(set(sections))
    assert set(sections) == codes_in_sources()
    assert sections == sorted(sections)


def test_docs__every_error_section_says_state_and_what_to_do():
    text = (DOCS / "errors.md").read_text(encoding="utf-8")
    for section in text.split("\n## ")[1:]:
        assert "**State:**" in section, section
        assert "**Do:**" in section, section


def test_docs__every_command_is_documented():
    documented = {title.split()[1] for title in headings("commands.md", 2) if title.startswith("alembic ")}
    registered = {name for name in CommandLine().subparsers.choices if name.startswith("zd-")}
    assert registered
    assert registered == {name for name in documented if name.startswith("zd-")}


@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "commands.md"], ids=lambda path: path.name)
def test_docs__options_of_our_commands_are_mentioned(page):
    text = page.read_text(encoding="utf-8")
    for name, parser in CommandLine().subparsers.choices.items():
        if not name.startswith("zd-"):
            continue
        assert f"alembic {name}" in text
        for action in parser._actions:
            for option in action.option_strings:
                assert option in {"-h", "--help"} or option in text


def test_docs__every_operation_is_documented_with_all_its_arguments():
    pages = [path.read_text(encoding="utf-8") for path in OPERATIONS.glob("*.md")]
    sections = [part.partition("\n") for text in pages for part in text.split("\n## ")[1:]]
    documented = {title: section for title, _, section in sections if title.startswith("zd_")}
    directives = {operation.directive: operation for operation in OPERATION_CLASSES}
    assert set(directives) == set(documented)
    assert len(documented) == sum(title.startswith("zd_") for title, _, _ in sections)
    for directive, operation in directives.items():
        section = documented[directive]
        code = getattr(operation, directive).__func__.__code__
        names = code.co_varnames[2 : code.co_argcount + code.co_kwonlyargcount]
        missing = [name for name in names if not re.search(rf"\b{name}\b", section)]
        assert not missing, f"{directive}: {missing}"


def test_docs__the_index_of_operations_names_every_page_and_every_operation():
    index = (OPERATIONS / "README.md").read_text(encoding="utf-8")
    assert {path.name for path in OPERATIONS.glob("*.md")} - {"README.md"} == set(
        re.findall(r"^\| \[.+?\]\((.+?)\) \|", index, re.MULTILINE)
    )
    assert not [o.directive for o in OPERATION_CLASSES if f"`{o.directive}`" not in index]


def test_docs__every_runtime_dependency_has_its_reason():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {re.match(r"[\w-]+", requirement).group() for requirement in project["dependencies"]}
    text = (DOCS / "dependencies.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([\w-]+)` \|", text, re.MULTILINE)) == names


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docs__python_snippets_compile(path):
    for snippet in snippets(path):
        compile(snippet, path.name, "exec")


def test_readme__shows_python():
    assert len(snippets(ROOT / "README.md")) >= 3


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docs__links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        page = (path.parent / name).resolve() if name else path
        assert page.exists(), target
        assert not anchor or anchor in anchors(page), target


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docs__codes_that_are_mentioned_exist(path):
    assert set(re.findall(r"\bZD\d{3}\b", path.read_text(encoding="utf-8"))) <= codes_in_sources()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_docs__tests_that_a_page_names_are_there(page):
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", page.read_text(encoding="utf-8")))
    assert {name for name in named if f"def {name}(" not in sources} == set()
